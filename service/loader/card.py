"""`model.toml`: what an operator says of a model. Read by every process, so it imports no torch."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails

from service.errors import ConfigurationError
from service.host.text import read_text
from service.loader.report import WAIVABLE
from service.signature import TensorSpec
from service.tasks.catalogue import TASKS
from service.tasks.inputs.spec import InputSpec
from service.tasks.inputs.tables import InputTable, OutputTable
from service.validation import KINDS, Table, kind_of, plain_words

CARD_FILE = "model.toml"


def _is_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,79}", text):
        raise ValueError(
            f"{text[:100]!r} cannot be a name; give letters, digits, _, . and -, the first a letter or _, at most 80"
        )
    return text


#: A name of a tensor or a value.
Name = Annotated[str, AfterValidator(_is_name)]
#: The most inputs, and the most outputs, of a model.
MOST_TENSORS = 64


class Batching(Table):
    """`max_batch_size`: the largest batch, in examples; left out, the device's default."""

    max_batch_size: int | None = Field(None, ge=1, le=1024)


class Proof(Table):
    """`waive`: by rule, the reason why the model is served although it breaks the rule.

    Only the last two rules can be waived, and each takes something away: without `batch-invariant` every example runs
    alone; without `repeatable` an unanswered request is not sent again when its engine dies.
    """

    waive: dict[str, str] = Field({})

    @model_validator(mode="after")
    def _can_be_waived(self) -> Proof:
        for rule, reason in self.waive.items():
            if rule not in WAIVABLE:
                raise ValueError(f"{rule!r} cannot be waived; only {' and '.join(WAIVABLE)} can")
            if not reason.strip():
                raise ValueError(f"{rule} needs a reason; say why the model is right all the same")
        return self


class Card(Table):
    """One model, as its folder describes it.

    `dtype` is what it computes in. `optimize` says whether a compiled package may answer for it (`auto`), or the eager
    forward alone. `activation` makes probabilities of the model's outputs; `none` says that they are probabilities.
    `checkpoint_key` and `strip_prefix` say where in a file of weights the state_dict is, and what its keys begin with
    beyond the architecture's. `allow_constant` says that a model may give every input the same answer. `inputs` and
    `outputs` are tensors by their names; with `inputs` nothing is decoded, and `[input]` has nothing to say. `values`
    names the numbers of a regression.
    """

    task: Literal["classification", "regression", "tensor"] = "classification"
    weights: str = Field(pattern=r"^((file|package|torchvision|random):.+|factory)$")
    checkpoint_key: str | None = Field(None, min_length=1)
    strip_prefix: str | None = Field(None, min_length=1)
    architecture: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    architecture_arguments: dict[str, Any] = Field({})
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    allow_constant: bool = False
    labels: (
        Annotated[Annotated[str, Tag("one")] | Annotated[list[str], Tag("several")], Discriminator(kind_of)] | None
    ) = None
    values: list[Name] | None = Field(None, min_length=1)
    input: InputSpec = InputSpec.model_validate({})
    inputs: dict[Name, InputTable] = Field({}, max_length=MOST_TENSORS)
    outputs: dict[Name, OutputTable] = Field({}, max_length=MOST_TENSORS)
    batching: Batching = Batching.model_validate({})
    proof: Proof = Proof.model_validate({})
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    optimize: Literal["auto", "eager"] = "auto"
    required: bool = True
    classifier: str | None = None
    training: dict[str, Any] = Field({})

    def part(self, key: Literal["weights", "architecture"]) -> tuple[str, str]:
        """Both sides of a key's first colon."""
        kind, _, rest = getattr(self, key).partition(":")
        return kind, rest

    @property
    def input_kind(self) -> Literal["picture", "tensors"]:
        """Return the name in the catalogue of what its inputs are."""
        return "tensors" if self.inputs else "picture"

    @property
    def input_specs(self) -> list[TensorSpec]:
        return [table.spec(name) for name, table in self.inputs.items()]

    @property
    def output_specs(self) -> list[TensorSpec]:
        return [table.spec(name) for name, table in self.outputs.items()]

    @model_validator(mode="after")
    def _fits_its_task(self) -> Card:
        if self.inputs and "input" in self.model_fields_set:
            raise ValueError(
                "there are [input], for pictures, and [inputs], for tensors; leave out the one that does not apply"
            )
        if not self.inputs and not TASKS[self.task].takes_files:
            raise ValueError(
                f'task = "{self.task}" needs its inputs; give each a table, such as [inputs.x] with '
                'dtype = "float32" and shape = [16]'
            )
        for key, task in _OF_A_TASK.items():
            if self.task != task and getattr(self, key) != Card.model_fields[key].get_default(
                call_default_factory=True
            ):
                raise ValueError(f'{key} is for task = "{task}", and this card has task = "{self.task}"; leave it out')
        return self


#: Keys that are for one task.
_OF_A_TASK = {"labels": "classification", "activation": "classification", "values": "regression", "outputs": "tensor"}
#: Keys that the first cards did not have.
_LATER_KEYS = (
    "dtype",
    "activation",
    "allow_constant",
    "architecture_arguments",
    "checkpoint_key",
    "strip_prefix",
    "values",
    "inputs",
    "outputs",
)
_TOML = "put text in quotes and lists in brackets; see https://toml.io"
#: What would be right, for the keys whose rule pydantic cannot put in words.
_RIGHT = {
    "weights": "file:NAME, package:PACKAGE/PATH, torchvision:WEIGHTS, factory or random:SEED",
    "labels": "torchvision:imagenet, file:NAME, or a list of names in quotes",
    "architecture": "torchvision:NAME, or MODULE:FACTORY of a file in the model's folder or of an installed module",
    "shape": "the sizes of one example, without the batch, such as [16], or [] for a single number",
    "range": "the least and the largest value, such as [0, 1]",
}


def read_card(folder: Path) -> Card:
    """Read the card of a model's folder.

    Raises:
        ConfigurationError: the file is missing, is not UTF-8 or TOML, or says what cannot be; all its faults at once.
    """
    file = folder / CARD_FILE
    try:
        text = read_text(file, "file")
        content = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigurationError.at(file, "file", "is missing", "a model's folder needs one") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError.at(file, "file", f"is not valid TOML: {error}{_line(text, error)}", _TOML) from error
    except OSError as error:
        raise ConfigurationError.at(file, "file", f"cannot be read: {error.strerror}", "make it readable") from error
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(words_of(file, error)) from error


def _line(text: str, error: Exception) -> str:
    """Return the line that the TOML reader stopped at, if its message names one."""
    found = re.search(r"at line (\d+)", str(error))
    lines = text.split("\n")
    return f": {lines[int(found[1]) - 1].strip()[:80]}" if found and int(found[1]) <= len(lines) else ""


def words_of(file: Path, error: ValidationError, table: str = "") -> list[str]:
    """Say of a card, or of a table of it, what is wrong: a line for each fault."""
    return [_words(file, problem, table) for problem in error.errors()]


def is_required(folder: Path) -> bool:
    """Return whether the server must have this model; it must, unless the card says `required = false`."""
    try:
        return tomllib.loads(read_text(folder / CARD_FILE, "file")).get("required") is not False
    except (OSError, ConfigurationError, tomllib.TOMLDecodeError, RecursionError):
        return True


def canonical(card: Card) -> bytes:
    """Return the card as bytes that do not depend on its order or layout, for the version.

    Optimisation does not change what a model is. A key that cards did not have from the start counts only where it
    is set to a value other than its default, so that versions stay as they were.
    """
    content = card.model_dump(mode="json", exclude={"optimize"})
    for key in _LATER_KEYS:
        if getattr(card, key) == Card.model_fields[key].get_default(call_default_factory=True):
            del content[key]
    for key in {"inputs", "outputs"} & content.keys():
        content[key] = [*content[key].items()]  # their order tells which is which where forward has other names
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _words(file: Path, problem: ErrorDetails, table: str) -> str:
    key = ".".join(str(part) for part in (table, *problem["loc"]) if part not in ("", "[key]", *KINDS))
    if problem["type"] == "extra_forbidden":
        return f"{file}: {key}: there is no such key; {_known_keys(problem['loc'])}"
    if problem["type"] == "missing":
        name = [part for part in problem["loc"] if isinstance(part, str)][-1]
        return f"{file}: {key}: is missing; it must be {_RIGHT.get(name, 'given')}"
    if not key:
        return f"{file}: {plain_words(problem)}"
    if key in _RIGHT and problem["type"] in ("string_pattern_mismatch", "string_type"):
        return f"{file}: {key}: {problem['input']!r} is not valid; it must be {_RIGHT[key]}"
    return f"{file}: {key}: {plain_words(problem)}"


def _known_keys(loc: tuple[int | str, ...]) -> str:
    tables: dict[str, type[BaseModel]] = {
        "input": InputSpec,
        "inputs": InputTable,
        "outputs": OutputTable,
        "batching": Batching,
        "proof": Proof,
    }
    table = tables.get(str(loc[0]), Card) if len(loc) > 1 else Card
    key = str(loc[-1])
    if table is not Card and key in Card.model_fields:
        return f"{key} belongs at the top of a card, above [{loc[0]}]"
    if table is Card and (home := next((name for name, each in tables.items() if key in each.model_fields), None)):
        return f"{key} belongs under [{home}{'.NAME' * (home in ('inputs', 'outputs'))}]"
    close = difflib.get_close_matches(key, table.model_fields, 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(table.model_fields)}"
