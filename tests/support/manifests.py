"""What deploy/kubernetes/ holds twice, since kustomize takes no file from outside its folders: `make manifests`."""

from __future__ import annotations

import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
HEAD = """\
# Made by `make manifests` from deploy/prometheus/rules/.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: gradless
  labels:
    app.kubernetes.io/name: gradless
spec:
  groups:
"""


def prometheus_rule() -> str:
    """The rule files as one object, comments and all. Each begins with comments and `groups:`."""
    groups = []
    for file in sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")):
        comments, _, rest = file.read_text().partition("groups:\n")
        groups.append(textwrap.indent(textwrap.indent(comments, "  ") + rest, "  "))
    return HEAD + "\n".join(groups)


def copies() -> dict[Path, str]:
    """Each file of deploy/kubernetes/ that is made, and what it is to hold."""
    made = {KUBERNETES / "overlays" / "monitoring" / "prometheusrule.yaml": prometheus_rule()}
    for kind in ("model.toml", "architecture.py"):
        for file in sorted((ROOT / "models").glob(f"*/{kind}")):
            made[KUBERNETES / "base" / "models" / file.parent.name / kind] = file.read_text()
    return made


def main() -> None:
    for file, content in copies().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


if __name__ == "__main__":
    main()
