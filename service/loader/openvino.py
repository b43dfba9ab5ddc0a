"""OpenVINO: from an exported graph to its own, compiled in memory for the processor at hand. For CPUs.

It needs no C++ compiler, and a package is loaded in tens of milliseconds. The library is not required: without it
there is one candidate less.

Sources: https://docs.openvino.ai/2026/openvino-workflow/model-preparation/convert-model-pytorch.html,
https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from service.loader.compiled import CannotCompileError, Target

SUFFIX = ".openvino"

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def need(target: Target) -> None:
    """It is a library.

    Raises:
        CannotCompileError: it is not installed, or the device is no CPU.
    """
    if target.device.type != "cpu":
        raise CannotCompileError("no-compiler", "OpenVINO is asked for CPUs only")
    if not importlib.util.find_spec("openvino"):
        raise CannotCompileError("no-compiler", "OpenVINO is not installed: pip install 'gradless[openvino]'")


def build(program: torch.export.ExportedProgram, file: Path, target: Target) -> None:
    """Compile an exported program into a package.

    Its front end is called directly: `openvino.convert_model` would tell its makers of each conversion.

    Raises:
        CannotCompileError: it cannot convert an operator, or does not compile what it has converted.
    """
    logging.disable(logging.WARNING)  # it warns, with a traceback, of operators that this torch has no decomposition of
    try:
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        front_end = FrontEndManager().load_by_framework("pytorch")
        with torch.no_grad(), _contiguous(program):
            decoder = TorchFXPythonDecoder.from_exported_program(program)
            model = front_end.convert(front_end.load(decoder))
            model.reshape([openvino.Dimension(1, target.cap), 3, target.side, target.side])
            wanted = openvino.preprocess.PrePostProcessor(model)
            wanted.output().tensor().set_element_type(openvino.Type.f32)  # numpy hands it over, and has no bfloat16
            compiled = openvino.Core().compile_model(wanted.build(), "CPU", _settings(target))
            file.write_bytes(compiled.export_model().getvalue())
    except Exception as error:
        raise CannotCompileError.because("failed", "OpenVINO", error) from error
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _contiguous(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Inside, the program's weights are as it wants them.

    It would copy others, and let go of a copy in bfloat16 while its model still reads it: OpenVINO 2026.4 then gives
    NaN.
    """
    held = (program.state_dict, program.constants)
    kept = [dict(tensors) for tensors in held]
    for tensors in held:
        for name, tensor in tensors.items():
            if isinstance(tensor, Tensor) and not tensor.is_contiguous():
                whole = tensor.detach().contiguous()
                tensors[name] = nn.Parameter(whole, False) if isinstance(tensor, nn.Parameter) else whole
    try:
        yield
    finally:
        for tensors, before in zip(held, kept, strict=True):
            tensors.update(before)


def load(file: Path, target: Target) -> Callable[[Tensor], Tensor]:
    """The function that a package holds: `(N, 3, side, side) uint8` on the CPU to `float32`."""
    import openvino

    request = openvino.Core().import_model(file.read_bytes(), "CPU", _settings(target)).create_infer_request()

    def forward(pixels: Tensor) -> Tensor:
        request.set_input_tensor(openvino.Tensor(pixels.numpy(), shared_memory=True))
        request.infer()
        return torch.from_numpy(request.get_output_tensor().data).clone()  # the next forward writes there too

    return forward


def _settings(target: Target) -> dict[str, object]:
    """One forward at a time in so many threads, which the kernel may move: other processes use these cores too.

    Left alone, it computes in bfloat16 wherever the processor does.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": target.threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": _PRECISIONS[target.dtype],
    }
