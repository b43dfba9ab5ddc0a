"""A model as the protocol describes it: its version, inputs and outputs, and its configuration."""

from __future__ import annotations

from typing import Any

from service.errors import ModelNotFound
from service.frontend.protocols.open_inference.datatypes import NAMES
from service.frontend.protocols.protocol import About
from service.signature import TensorSpec
from service.wire.messages import ModelState

#: The version of a model without revisions, as Triton numbers the first one. Its content's hash is taken as well.
VERSION = "1"
PLATFORM = "pytorch"


def check_version(state: ModelState, version: str) -> None:
    """Let a request pass that names the version which is served, or none.

    Raises:
        ModelNotFound: it names another.
    """
    if version and version not in (VERSION, state.version):
        words = f"{state.name} has no version {version[:80]!r}; it has {VERSION}, which is {state.version}."
        raise ModelNotFound(words)


def metadata(about: About, state: ModelState) -> dict[str, Any]:
    """Return a model's name, versions, inputs and outputs; of its forms of an input the first."""
    inputs, outputs = tensors(about, state)
    return {
        "name": state.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_told(spec) for spec in inputs],
        "outputs": [_told(spec) for spec in outputs],
    }


def config(about: About, state: ModelState) -> dict[str, Any]:
    """Return a model's configuration as Triton writes one; shapes are without the batch."""
    inputs, outputs = tensors(about, state)
    return {
        "name": state.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": about.settings.max_instances,
        "input": [_configured(spec) for spec in inputs],
        "output": [_configured(spec) for spec in outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "dynamic_batching": {"preferred_batch_size": state.batch_sizes, "max_queue_delay_microseconds": 0},
    }


def tensors(about: About, state: ModelState) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Return the inputs and the outputs of a model that is ready."""
    sides = about.sides(state)
    inputs: dict[str, TensorSpec] = {}
    for spec in sides.input.takes():
        inputs.setdefault(spec.name, spec)
    return [*inputs.values()], [*sides.output.listed(state.signature, state.answer)]


def _told(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": NAMES[spec.dtype], "shape": [-1, *spec.shape]}


def _configured(spec: TensorSpec) -> dict[str, Any]:
    kind = "STRING" if spec.dtype == "bytes" else NAMES[spec.dtype]
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape) or [1]}
