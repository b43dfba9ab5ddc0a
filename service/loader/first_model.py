"""Commands that make a first model, for a user who has none."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import service
from service.loader.card import CARD_FILE

#: The default model, which is there where the server runs from a clone; its weights come with its package.
_SHIPPED = Path(service.__file__).parents[1] / "models" / "efficientnet_lite0"
_CARD = r'weights = "torchvision:ResNet18_Weights.DEFAULT"\narchitecture = "torchvision:resnet18"\n'


def first_model(root: Path) -> str:
    """Say how to make a first model in a folder of models: three commands for a shell, each on a line of its own.

    The model is the default one where that is at hand, else one whose weights torchvision fetches at the first start.
    """
    folder = root / "resnet18"
    first = f"mkdir -p {_quoted(root)}", f"cp -r {_quoted(_SHIPPED)} {_quoted(root)}"
    words = "make a first model with these three commands"
    if not (_SHIPPED / CARD_FILE).is_file():
        first = f"mkdir -p {_quoted(folder)}", f"printf '{_CARD}' > {_quoted(folder / CARD_FILE)}"
        words += ", of which the last fetches its weights, 45 MB, once"
    gradless = "gradless" if shutil.which("gradless") else f"{_quoted(Path(sys.executable))} -m gradless"
    commands = (*first, f"{gradless} serve --models {_quoted(root)}")
    return "\n    ".join([f"{words}:", *commands])


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
