"""NVIDIA's Triton: its server and Python backend, batches as large as ours, no waiting for company; arrays only.

The binaries are those of the nvidia-pytriton package. Their own conversion to numpy needs a numpy older than 2 and is
silently wrong with a newer one: inputs are garbage, outputs empty. Tensors travel by DLPack here, so ours will do.
Argument: port. The job is in the environment.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.bench.choice import seen_by
from service.bench.workload import Workload, WorkloadSpec
from service.frontend.protocols.open_inference.datatypes import NAMES
from service.loader.load import load
from service.loader.repository import find_models
from service.signature import Signature, TensorSpec


class ArraysWorkload(Workload):
    """Does the job with arrays for answers."""

    @property
    def signature(self) -> Signature:
        return self._model.signature

    def outputs(self, arrays: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the results of a batch, `(N, *shape)` each, on the CPU."""
        with torch.inference_mode():
            return self._model.results(self._model.run_batch(arrays))[0]


class TritonPythonModel:
    """The model as the Python backend calls it."""

    def initialize(self, _: dict[str, str]) -> None:
        self._backend: Any = importlib.import_module("triton_python_backend_utils")  # only Triton's process has it
        self._workload = ArraysWorkload(WorkloadSpec.from_environment())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch; each request brings one example or more."""
        signature = self._workload.signature
        columns = [[self._read(request, spec.name) for request in requests] for spec in signature.inputs]
        outputs = self._workload.outputs(tuple(torch.cat(column) for column in columns))
        counts = [len(tensor) for tensor in columns[0]]
        names = [spec.name for spec in signature.outputs]
        answers = zip(*(torch.split(output, counts) for output in outputs), strict=True)
        return [self._backend.InferenceResponse(list(map(self._write, names, answer))) for answer in answers]

    def _read(self, request: Any, name: str) -> Tensor:
        return torch.utils.dlpack.from_dlpack(self._backend.get_input_tensor_by_name(request, name).to_dlpack())

    def _write(self, name: str, tensor: Tensor) -> Any:
        return self._backend.Tensor.from_dlpack(name, tensor)


def configuration(name: str, cap: int, signature: Signature) -> str:
    """Return Triton's config.pbtxt."""
    return f"""
name: "{name}"
backend: "python"
max_batch_size: {cap}
input [{_tensors(signature.inputs)}]
output [{_tensors(signature.outputs)}]
instance_group [{{ count: 1, kind: KIND_CPU }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""


def _tensors(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f'{{ name: "{spec.name}", data_type: TYPE_{NAMES[spec.dtype]}, dims: {list(spec.shape)} }}' for spec in specs
    )


def model_repository(spec: WorkloadSpec) -> Path:
    """Make Triton's folder of models, with this one alone."""
    folder = find_models(Path(spec.models))[spec.name]
    repository = Path(tempfile.mkdtemp(prefix="triton-"))
    model = repository / spec.name
    (model / "1").mkdir(parents=True)
    text = configuration(spec.name, spec.cap, load(folder).signature)
    (model / "config.pbtxt").write_text(text, encoding="utf-8")
    # The backend's process ignores PYTHONPATH.
    lines = "import sys", f"sys.path.append({str(Path(__file__).parents[3])!r})"
    imported = "from service.bench.peers.triton_server import TritonPythonModel"
    (model / "1" / "model.py").write_text("\n".join([*lines, imported, ""]), encoding="utf-8")
    return repository


def choose_python(triton: Path) -> None:
    """Put the Python backend's process for this version of Python where the backend looks for it."""
    program = "triton_python_backend_stub"
    with contextlib.suppress(FileExistsError):
        for_this = triton / "python_backend_stubs" / sysconfig.get_python_version() / program
        (triton / "backends" / "python" / program).symlink_to(for_this)


def main() -> None:
    spec = WorkloadSpec.from_environment()
    if seen_by(Path(spec.models), spec.name).side:
        sys.exit("Triton is asked for arrays only; this model sees pictures")
    triton = Path(sysconfig.get_path("platlib"), "pytriton", "tritonserver")
    choose_python(triton)
    command = [str(triton / "bin" / "tritonserver"), "--model-repository", str(model_repository(spec))]
    command += ["--backend-directory", str(triton / "backends")]
    command += ["--http-address", "127.0.0.1", "--http-port", sys.argv[1]]
    command += ["--allow-grpc", "false", "--allow-metrics", "false", "--log-info", "false"]
    command += ["--exit-timeout-secs", "5"]  # connections that clients keep open count as unfinished
    # The Python backend's process links libpython, and finds this environment by the first python3 on PATH.
    libraries = [sysconfig.get_config_var("LIBDIR"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    found = {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    found["PATH"] = os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ["PATH"]])
    os.execve(command[0], command, os.environ | found)  # noqa: S606


if __name__ == "__main__":
    main()
