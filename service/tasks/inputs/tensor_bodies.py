"""Bodies of tensors: JSON, npy and npz, held against a model's signature before anything is queued."""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from service.errors import TooLarge, Unprocessable, UnsupportedType
from service.signature import Signature, TensorSpec, nested_schema, said_of_shape
from service.tasks.inputs.arrays import MOST_HEADER_BYTES, read_npy, read_npz
from service.tasks.inputs.csv_bodies import read_csv
from service.tasks.inputs.input import Arrays, Given
from service.tasks.inputs.json_bodies import check_keys, decoded, without_mark
from service.tasks.inputs.numbers import DTYPES, array_of, check_range, is_nested, nested_type

_Array = npt.NDArray[Any]
#: A larger body of wrong shapes takes tens of milliseconds to build.
LARGE_BYTES = 1 << 20
#: An example in the documentation has at most this many numbers.
MOST_IN_EXAMPLE = 1024
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$(?:\.instances(?:\[(?P<instance>\d+)\])?)?(?P<rest>.*)`)?$", re.DOTALL)


class TensorsInput:
    """Reads bodies of tensors for one model.

    Args:
        about: nothing; a card's `[input]` is for pictures.
        signature: the model's.
        max_pixels: not for tensors.
    """

    def __init__(self, about: Mapping[str, Any], signature: Signature, max_pixels: int) -> None:
        self._specs = signature.inputs
        self._fields = {spec.name: f"input_{place}" for place, spec in enumerate(self._specs)}
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body_type(self._specs))
        self.example_bytes = signature.example_bytes
        self._read_bytes = sum(math.prod(spec.shape) * DTYPES[spec.dtype].itemsize for spec in self._specs)

    def read(self, content_type: str, body: bytes, most: int) -> Given:
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "application/json":
            arrays = self._of_json(body)
        elif kind == "application/x-npy":
            arrays = self._of_named({self._only(): read_npy(body)})
        elif kind == "application/x-npz":
            arrays = self._of_named(read_npz(body, most * self._read_bytes + len(self._specs) * MOST_HEADER_BYTES))
        elif kind == "text/csv":
            arrays = (read_csv(body, self._specs[self._only_row()], most),)
        else:
            raise UnsupportedType(
                f"Content-Type is {kind[:80]!r}; send application/json, application/x-npy, application/x-npz or "
                "text/csv."
            )
        return self._given(arrays, most)

    def takes(self) -> Sequence[TensorSpec]:
        return self._specs

    def accept(self, named: Mapping[str, Any], most: int) -> Given:
        return self._given(self._of_named(named), most)

    def _given(self, arrays: Arrays, most: int) -> Given:
        count = len(arrays[0])
        if not count:
            raise Unprocessable("There is no instance in the body.")
        if count > most:
            raise TooLarge(f"{count} instances; at most {most} are allowed in one request.")
        return Given(count, [tuple(_on_the_wire(*pair) for pair in zip(self._specs, arrays, strict=True))], {})

    def at_once(self, given: Given, is_alone: bool) -> Arrays | None:
        arrays: Arrays = given.items[0]
        return arrays

    def decode(self, item: Any) -> Sequence[_Array]:
        raise NotImplementedError  # nothing is left to do

    def documented(self) -> dict[str, Any]:
        json: dict[str, Any] = {"schema": body_schema(self._specs)}
        if sum(math.prod(spec.shape) for spec in self._specs) <= MOST_IN_EXAMPLE:
            json["example"] = {"instances": [{spec.name: _example(spec) for spec in self._specs}]}
        binary = {"schema": {"type": "string", "format": "binary"}}
        numpy = {"application/x-npz": binary} | ({"application/x-npy": binary} if len(self._specs) == 1 else {})
        if len(self._specs) == 1 and len(self._specs[0].shape) <= 1:
            numpy["text/csv"] = {"schema": {"type": "string"}}
        return {"application/json": json} | numpy

    def _only(self) -> str:
        if len(self._specs) > 1:
            names = ", ".join(spec.name for spec in self._specs)
            raise Unprocessable(f"An npy file holds one array, and the model takes {names}; send application/x-npz.")
        return self._specs[0].name

    def _only_row(self) -> int:
        """Return the place of the input that a line of CSV can hold.

        Raises:
            Unprocessable: the model takes another number of inputs, or more dimensions.
        """
        if len(self._specs) > 1 or len(self._specs[0].shape) > 1:
            raise Unprocessable(
                "A line of CSV holds one input of one dimension; send application/json or application/x-npz."
            )
        return 0

    def _of_named(self, given: Mapping[str, _Array]) -> Arrays:
        """Hold arrays, `(N, *shape)` each, against the signature."""
        if unknown := [name for name in given if name not in self._fields]:
            raise Unprocessable(
                f"{unknown[0][:80]!r} is not an input of the model; it takes {', '.join(self._fields)}."
            )
        if missing := [name for name in self._fields if name not in given]:
            raise Unprocessable(f"The input {missing[0]} is missing; the model takes {', '.join(self._fields)}.")
        counts = {name: len(array) for name, array in given.items() if array.ndim}
        for spec in self._specs:
            array, wanted = given[spec.name], DTYPES[spec.dtype]
            if array.dtype != wanted or array.ndim != 1 + len(spec.shape) or array.shape[1:] != spec.shape:
                found = said_of_shape(str(array.dtype), array.shape)
                shape = ", ".join(["N", *map(str, spec.shape)]) + "," * (not spec.shape)
                raise Unprocessable(f"The input {spec.name} is {found}; it must be {wanted} of shape ({shape}).")
            if len(array) != counts[self._specs[0].name]:
                said = ", ".join(f"{name} has {count}" for name, count in counts.items())
                raise Unprocessable(f"Inputs have different numbers of instances: {said}.")
            check_range(spec, array)
        return tuple(given[spec.name] for spec in self._specs)

    def _of_json(self, body: bytes) -> Arrays:
        body = without_mark(body)
        if len(body) >= LARGE_BYTES:
            self._count_first(body)
        instances = decoded(self._json.decode, body, self._said).instances
        named = [each for each in instances if isinstance(each, msgspec.Struct)]
        check_keys(body, 1 + len(named) * len(self._specs))
        return tuple(
            self._column(spec, field, instances) for spec, field in zip(self._specs, self._fields.values(), strict=True)
        )

    def _count_first(self, body: bytes) -> None:
        """Refuse a large body of other shapes by its brackets and commas, in 1 ms a megabyte, before it is built.

        Of shape (2, 3) an instance has 1 + 2 brackets that open and 6 - 1 commas; between instances there is one more.
        Of a model with one input their order counts, too.

        Raises:
            Unprocessable: it has more or fewer, or others.
        """
        lists = sum(
            sum(itertools.accumulate(spec.shape[:-1], operator.mul, initial=1)) for spec in self._specs if spec.shape
        )
        if not lists:
            return
        count, rest = divmod(body.count(b"[") - 1, lists)
        commas = count * sum(math.prod(spec.shape) for spec in self._specs) - 1
        is_right = not rest and body.count(b",") == commas
        if is_right and len(self._specs) == 1:  # what is compared is then no longer than the body
            is_right = is_nested(body, (count, *self._specs[0].shape))
        if not is_right:
            raise Unprocessable(f"Nested numbers differ in length; the body must be {self._expected()}.")

    def _column(self, spec: TensorSpec, field: str, instances: Sequence[Any]) -> _Array:
        values = [getattr(each, field) if isinstance(each, msgspec.Struct) else each for each in instances]
        array = array_of(spec, values, len(values))
        check_range(spec, array)
        return array

    def _said(self, words: str) -> str:
        """Put msgspec's words in terms of instances and inputs."""
        found = _PATH.match(words)
        what, instance, rest = (found["what"], found["instance"], found["rest"] or "") if found else (words, None, "")
        what = what.replace(" | object`", "`")  # an instance may be the bare value of an only input
        wanted = "; ".join(f"{spec.name} must be {said_of_shape(spec.dtype, spec.shape)}" for spec in self._specs)
        if instance is None:
            return f"{what}; the body must be {self._expected()}."
        name = next((name for name in self._fields if rest.startswith(f".{name}")), "")
        place = rest[len(name) + 1 :] if name else rest
        if not name and len(self._specs) == 1:
            name = self._specs[0].name
        where = f", input {name}" * bool(name) + f" at {place}" * bool(place)
        spec = next((spec for spec in self._specs if spec.name == name), None)
        if spec:
            wanted = f"it must be {said_of_shape(spec.dtype, spec.shape)}"
        return f"Instance {instance}{where}: {what[:1].lower()}{what[1:]}; {wanted}."

    def _expected(self) -> str:
        names = ", ".join(f'"{spec.name}": {said_of_shape(spec.dtype, spec.shape)}' for spec in self._specs)
        return f'{{"instances": [{{{names}}}, …]}}'


def body_type(specs: Sequence[TensorSpec]) -> type[msgspec.Struct]:
    """Return the type of a JSON body for these inputs: shapes, dtypes and their limits are checked as it is read."""
    fields = [(f"input_{place}", nested_type(spec)) for place, spec in enumerate(specs)]
    rename = {f"input_{place}": spec.name for place, spec in enumerate(specs)}
    instance: Any = msgspec.defstruct("Instance", fields, rename=rename, forbid_unknown_fields=True)
    if len(specs) == 1:
        instance = instance | nested_type(specs[0])
    some = Annotated[list[instance], msgspec.Meta(min_length=1)]
    return msgspec.defstruct("Instances", [("instances", some)], forbid_unknown_fields=True)


def body_schema(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return the schema of a JSON body for these inputs."""
    tensors = {spec.name: nested_schema(spec) for spec in specs}
    named = {"type": "object", "properties": tensors, "required": list(tensors), "additionalProperties": False}
    instance = {"anyOf": [named, *tensors.values()]} if len(specs) == 1 else named
    instances = {"type": "array", "items": instance, "minItems": 1}
    return {
        "type": "object",
        "properties": {"instances": instances},
        "required": ["instances"],
        "additionalProperties": False,
    }


def _example(spec: TensorSpec) -> Any:
    """Return nested numbers that the input takes."""
    low, high = spec.range or (0, 1)
    value: Any = False if spec.dtype == "bool" else min(max(0.0, low), high)
    if not spec.is_floating and spec.dtype != "bool":
        value = int(value)
    return np.full(spec.shape, value).tolist()


def _on_the_wire(spec: TensorSpec, array: _Array) -> _Array:
    """Return an array whose bytes are those of torch's dtype: bfloat16 is float32's upper half, rounded to even."""
    if spec.dtype != "bfloat16":
        return array
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)
