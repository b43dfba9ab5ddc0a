"""The answer of a tensor model: its outputs by name, as nested numbers or in numpy's formats."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from service.errors import NotAcceptable
from service.signature import Signature, nested_schema
from service.tasks.outputs.answer import JSON, Answering, Ranked, ResultsAsTensors, Written, answer_schema
from service.tasks.outputs.options import no_options
from service.tasks.outputs.ranking import highest

NPY, NPZ, CSV = b"application/x-npy", b"application/x-npz", b"text/csv"
#: Media types that `Accept` may name; the first one is for whoever accepts anything.
_WRITTEN = {"application/json": JSON, "application/x-npy": NPY, "application/x-npz": NPZ, "text/csv": CSV}


class TensorsOutput(ResultsAsTensors):
    """Writes `{"outputs": {NAME: nested numbers}}`, npy or npz; the wish is the media type."""

    has_pipeline = False

    def wishes(self, query: Iterable[tuple[str, str]], accept: str, signature: Signature) -> bytes:
        no_options(query)
        wanted = accepted(accept)
        if wanted == NPY and len(signature.outputs) > 1:
            there = ", ".join(spec.name for spec in signature.outputs)
            raise NotAcceptable(f"An npy file holds one array, and this model gives {there}; accept application/x-npz.")
        if wanted == CSV and (len(signature.outputs) > 1 or len(signature.outputs[0].shape) > 1):
            raise NotAcceptable(
                "A line of CSV holds one output of one dimension, and this model gives others; accept "
                "application/x-npz."
            )
        return wanted

    def agreed(self, wishes: bytes, options: Mapping[str, Any]) -> bytes:
        no_options((key, str(value)) for key, value in options.items())
        return wishes

    def documented(self, signature: Signature, answer: Mapping[str, Any]) -> dict[str, Any]:
        tensors = {spec.name: nested_schema(spec) for spec in signature.outputs}
        outputs = {"type": "object", "properties": tensors, "required": list(tensors)}
        binary = {"schema": {"type": "string", "format": "binary"}}
        formats = {"application/x-npz": binary} | ({"application/x-npy": binary} if len(tensors) == 1 else {})
        return {"application/json": {"schema": answer_schema({"outputs": outputs})}} | formats

    def ranked(
        self, name: str, most: int, results: Sequence[npt.NDArray[Any]], by: Answering
    ) -> Sequence[Sequence[Ranked]]:
        place = [spec.name for spec in by.signature.outputs].index(name)
        return highest(results[place], most)

    def rows(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: bytes) -> Sequence[Any]:
        if len(results) == 1:
            return list(results[0])
        names = [spec.name for spec in by.signature.outputs]
        return [dict(zip(names, row, strict=True)) for row in zip(*results, strict=True)]

    def pipeline(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: bytes) -> Any:
        raise NotImplementedError

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: bytes) -> Written:
        if wishes == NPY:
            return Written(_npy(results[0]), NPY)
        if wishes == CSV:
            return Written(_csv(results[0]), CSV)
        names = [spec.name for spec in by.signature.outputs]
        if wishes == NPZ:
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:  # numpy's savez has names of its own, such as `file`
                for name, array in zip(names, results, strict=True):
                    archive.writestr(f"{name}.npy", _npy(array))
            return Written(file.getvalue(), NPZ)
        rows = zip(*results, strict=True)
        found = [{"outputs": dict(zip(names, row, strict=True))} for row in rows]
        content = {"model": by.name, "version": by.version, "predictions": found}
        return Written(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), JSON)


def _csv(array: npt.NDArray[Any]) -> bytes:
    """Write a line for each example; numbers have as many digits as tell any two of the dtype apart. (RFC 4180)"""
    rows = array.reshape(len(array), -1)
    return "".join(",".join(map(str, row)) + "\r\n" for row in rows).encode()


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def accepted(accept: str) -> bytes:
    """Return the media type of the answer (RFC 9110, 12.5.1): the most wanted of those that can be written.

    Raises:
        NotAcceptable: there is none.
    """
    if not accept or accept == "*/*":
        return JSON
    wanted: list[tuple[float, bytes]] = []
    for each in accept.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        found = JSON if name in ("*/*", "application/*") else _WRITTEN.get(name)
        if found and weight > 0:
            wanted.append((weight, found))
    if not wanted:
        words = f"Accept is {accept[:80]!r}; answers are written as {', '.join(_WRITTEN)}."
        raise NotAcceptable(words)
    return max(wanted, key=lambda each: each[0])[1]
