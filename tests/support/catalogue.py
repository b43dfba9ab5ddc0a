"""torchvision's classification models, each built with random weights, frozen and proven.

`python -m tests.support.catalogue` proves them all and prints docs/models.md, which ends with what
people bring; `make models` does that.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

from service.errors import ConfigurationError
from service.loader.compiled import Arrays
from service.loader.load import load
from service.loader.proof import prove
from service.loader.report import Report
from service.loader.repository import find_models
from tests.support.models import make_models
from tests.support.newcomer import section

SIZES = (1, 2, 4)
#: Of each family, or nearly, the smallest: what `make test` has time for.
SMALL = (
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
)


def prove_torchvision(name: str, root: Path, dtype: torch.dtype = torch.float32, side: int = 224) -> Report:
    """Prove a model with random weights, in the memory format that it comes in, on the CPU.

    Args:
        side: of the pictures, in pixels.

    Raises:
        ConfigurationError: it cannot be built or is none that can be served.
    """
    card = f'weights = "random:1"\narchitecture = "torchvision:{name}"\n[input]\nresize = {side}\ncrop = {side}\n'
    models = make_models(root, **{name: card})
    loaded = load(find_models(models)[name])
    preparation = loaded.adapter.preparation
    preparation.dtype = dtype
    module = loaded.module.to(dtype)

    def run_batch(arrays: Arrays) -> Arrays:
        outputs: Arrays = loaded.adapter(*arrays)
        return outputs

    with torch.inference_mode():
        return prove(run_batch, module, preparation.examples(2 * SIZES[-1]), SIZES)


@dataclass
class Row:
    name: str
    verdict: str
    difference: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return f"| {self.name} | {self.verdict} | {self.difference} | {self.detail} |"


def row(name: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = prove_torchvision(name, Path(folder))
        except ConfigurationError as error:
            return Row(name, "cannot be built", detail=error.problems[0].partition("model.toml: ")[2])
    verdict = "refused" if not report.passed else "proven, inconclusive" if report.inconclusive else "proven"
    return Row(name, verdict, f"{report.figures.largest_difference:.1e}", report.refusal or report.inconclusive)


HEAD = """\
# torchvision's models

Each of torchvision's {count} classification models, built with random weights (`random:1`), frozen and put to the proof
in float32 at batch sizes 1, 2 and 4, in the memory format that it comes in. Made by `make models` with torch {torch}
and torchvision {torchvision}: {proven} are proven, {inconclusive} of them inconclusively; {refused} are refused.

*In company*: the largest difference between an example's scores alone and in a batch, as a share of the largest score;
1e-5 is allowed. What is said of random weights here holds for trained ones as far as the rules look at code; how far
company moves an answer depends on the weights, and `gradless check` measures it for yours.

| model | verdict | in company | why |
| --- | --- | --- | --- |"""


def main() -> None:
    torch.set_num_threads(max(1, torch.get_num_threads()))
    rows = []
    for name in torchvision.models.list_models(module=torchvision.models):
        rows.append(row(name))
        gc.collect()
        print(rows[-1], file=sys.stderr, flush=True)
    verdicts = [found.verdict for found in rows]
    head = HEAD.format(
        count=len(rows),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        proven=sum(verdict.startswith("proven") for verdict in verdicts),
        inconclusive=verdicts.count("proven, inconclusive"),
        refused=len(rows) - sum(verdict.startswith("proven") for verdict in verdicts),
    )
    print(head, *rows, "", section(), sep="\n")


if __name__ == "__main__":
    main()
