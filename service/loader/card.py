"""`model.toml`: what an operator says of a model. Read by every process, so it imports no torch."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ConfigurationError
from service.loader.report import WAIVABLE

CARD_FILE = "model.toml"

Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Table):
    """How a picture becomes the model's input. Sizes are in pixels; `mean` and `std` are of uint8 pixels, RGB.

    The defaults are ImageNet's. With `torchvision:` weights the keys that a card leaves out come from those.
    """

    resize: int = Field(256, ge=1, le=4096, description="shorter side after resizing, in pixels")
    crop: int = Field(224, ge=1, le=4096, description="side of the centre crop, in pixels")
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: Channels = (123.675, 116.28, 103.53)
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _crop_fits(self) -> InputSpec:
        if self.crop > self.resize:
            raise ValueError(f"crop = {self.crop} is larger than resize = {self.resize}; the crop must fit in it")
        return self


class Batching(_Table):
    """`max_batch_size`: the largest batch, in examples; left out, the device's default."""

    max_batch_size: int | None = Field(None, ge=1, le=1024)


class Proof(_Table):
    """`waive`: by rule, the reason why the model is served although it breaks the rule.

    Only the last two rules can be waived, and each takes something away: without `batch-invariant` every example runs
    alone; without `repeatable` an unanswered request is not sent again when its engine dies.
    """

    waive: dict[str, str] = {}

    @model_validator(mode="after")
    def _can_be_waived(self) -> Proof:
        for rule, reason in self.waive.items():
            if rule not in WAIVABLE:
                raise ValueError(f"{rule!r} cannot be waived; only {' and '.join(WAIVABLE)} can")
            if not reason.strip():
                raise ValueError(f"{rule} needs a reason; say why the model is right all the same")
        return self


class Card(_Table):
    """One model, as its folder describes it.

    `dtype` is what it computes in. `optimize` says whether a compiled package may answer for it (`auto`), or the eager
    forward alone.
    """

    task: Literal["classification"] = "classification"
    weights: str = Field(pattern=r"^(file|package|torchvision|random):.+$")
    architecture: str = Field(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$")
    labels: str | list[str] | None = None
    input: InputSpec = InputSpec.model_validate({})
    batching: Batching = Batching.model_validate({})
    proof: Proof = Proof()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    optimize: Literal["auto", "eager"] = "auto"
    required: bool = True
    classifier: str | None = None
    training: dict[str, Any] = {}

    def part(self, key: Literal["weights", "architecture"]) -> tuple[str, str]:
        """Both sides of a key's first colon."""
        kind, _, rest = getattr(self, key).partition(":")
        return kind, rest


#: What would be right, for the keys whose rule pydantic cannot put in words.
_RIGHT = {
    "weights": "file:NAME, package:PACKAGE/PATH, torchvision:WEIGHTS or random:SEED",
    "architecture": "torchvision:NAME, or MODULE:FACTORY with MODULE.py in the model's folder",
}


def read_card(folder: Path) -> Card:
    """The card of a model's folder.

    Raises:
        ConfigurationError: the file is missing, is no TOML, or says what cannot be; all its faults at once.
    """
    file = folder / CARD_FILE
    try:
        content = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigurationError.at(file, "file", "is missing", "a model's folder needs one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError.at(file, "file", f"is no TOML: {error}", "see https://toml.io") from error
    except OSError as error:
        raise ConfigurationError.at(file, "file", f"cannot be read: {error.strerror}", "make it readable") from error
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError([_words(file, dict(problem)) for problem in error.errors()]) from error


def canonical(card: Card) -> bytes:
    """The card as bytes that do not depend on its order or layout; for the version.

    How a model is optimised is no part of what it is; nor did a card say its dtype while there was only one.
    """
    content = card.model_dump(mode="json", exclude={"optimize"})
    if card.dtype == "float32":
        del content["dtype"]
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _words(file: Path, problem: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "input"
    if problem["type"] == "extra_forbidden":
        return f"{file}: {key}: there is no such key; {_known_keys(problem['loc'])}"
    if problem["type"] == "missing":
        return f"{file}: {key}: is missing; it must be {_RIGHT.get(key, 'given')}"
    if problem["type"] == "string_pattern_mismatch":
        return f"{file}: {key}: {problem['input']!r} does not fit; it must be {_RIGHT[key]}"
    return f"{file}: {key}: {problem['msg']}; it is {problem['input']!r}"


def _known_keys(loc: tuple[str, ...]) -> str:
    tables: dict[str, type[BaseModel]] = {"input": InputSpec, "batching": Batching, "proof": Proof}
    table = tables.get(loc[0], Card) if len(loc) > 1 else Card
    close = difflib.get_close_matches(loc[-1], table.model_fields, 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(table.model_fields)}"
