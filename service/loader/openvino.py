"""OpenVINO: converts an exported graph to its own, and compiles it in memory for this machine's CPU.

It needs no C++ compiler, and a package is loaded in tens of milliseconds. The library is not required: without it
there is one candidate fewer.

Sources: https://docs.openvino.ai/2026/openvino-workflow/model-preparation/convert-model-pytorch.html,
https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from service.loader.compiled import Arrays, CannotCompileError, Package, Target
from service.signature import TensorSpec

if TYPE_CHECKING:
    from openvino import Core, InferRequest
    from openvino import Tensor as OpenVinoTensor

SUFFIX = ".openvino"
SUFFIX_IN_PIECES = ".openvino-pieces"

#: Examples that one thread computes at a time: with more, what it works on outgrows its core's cache.
PIECE = 2
#: Batches of which pieces are computed at a time: a stream that has no more of one goes on with the next.
AT_A_TIME = 2

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def need(target: Target) -> None:
    """Check that OpenVINO is installed.

    Raises:
        CannotCompileError: it is not installed, or the device is not a CPU.
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
            batch = openvino.Dimension(1, target.cap)
            model.reshape({place: [batch, *spec.shape] for place, spec in enumerate(target.inputs)})
            wanted = openvino.preprocess.PrePostProcessor(model)
            for place, spec in enumerate(target.outputs):
                if spec.dtype == "bfloat16":  # which numpy, that hands it over, does not have
                    wanted.output(place).tensor().set_element_type(openvino.Type.f32)
            compiled = openvino.Core().compile_model(wanted.build(), "CPU", _settings(target, 1))
            file.write_bytes(compiled.export_model().getvalue())
    except Exception as error:
        raise CannotCompileError.because("failed", "OpenVINO", error) from error
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _contiguous(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Give OpenVINO the program's weights as it wants them, inside.

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


def load(file: Path, target: Target) -> Package:
    """Load a package whose forwards all threads share, layer by layer."""
    import openvino

    whole = Lanes(openvino.Core(), file.read_bytes(), target, streams=1)
    return Package(lambda arrays: whole.begin([arrays])(), 1)


def build_in_pieces(program: torch.export.ExportedProgram, file: Path, target: Target) -> None:
    """Build the package of `build`, for `load_in_pieces`.

    Raises:
        CannotCompileError: as `build`, or there is nothing to share between threads.
    """
    if _streams(target) == 1:
        raise CannotCompileError("failed", "OpenVINO cuts no batch for one thread, nor one of one example")
    build(program, file, target)


def load_in_pieces(file: Path, target: Target) -> Package:
    """Load a package that cuts a batch into pieces, each of which one stream takes from beginning to end.

    Threads that share a forward wait for each other after every layer, spinning; and while a front end decodes the next
    picture on one of their cores, all do. With more pieces than streams, a stream that is held up takes fewer.
    On the other hand each piece reads all weights. A batch too small to cut is shared, and one too large refused.
    """
    import openvino

    core, package, streams = openvino.Core(), file.read_bytes(), _streams(target)
    whole = Lanes(core, package, target, streams=1)
    pieces = Lanes(core, package, target, streams, _pieces(target.cap, streams), AT_A_TIME)

    def begin(arrays: Arrays) -> Callable[[], Arrays]:
        size = len(arrays[0])
        if size > target.cap or (number := _pieces(size, streams)) == 1:
            return whole.begin([arrays])
        return pieces.begin([*zip(*(array.tensor_split(number) for array in arrays), strict=True)])

    return Package(lambda arrays: begin(arrays)(), 1, begin, overlaps_from=streams)


def _streams(target: Target) -> int:
    """Return how many forwards run at a time: at most one a thread, and at most one an example of the largest batch."""
    return min(target.threads, target.cap)


def _pieces(size: int, streams: int) -> int:
    """Return how many pieces a batch is cut into: two a stream if it can be, more if they would exceed `PIECE`."""
    if size < streams:
        return 1
    return max(min(size, 2 * streams), -(-size // PIECE))


class Lanes:
    """The requests of one compiled model: a row of them for each batch under way, one for each of its pieces."""

    def __init__(
        self, core: Core, package: bytes, target: Target, streams: int, pieces: int = 1, at_a_time: int = 1
    ) -> None:
        compiled = core.import_model(package, "CPU", _settings(target, streams))
        self._free = [[compiled.create_infer_request() for _ in range(pieces)] for _ in range(at_a_time)]
        self._inputs = [_handed_over(spec) for spec in target.inputs]
        self._outputs = [getattr(torch, spec.dtype) for spec in target.outputs]

    def begin(self, pieces: Sequence[Arrays]) -> Callable[[], Arrays]:
        """Start on all pieces; what is given back waits for them, and gives their outputs, each as one tensor.

        Raises:
            RuntimeError: a piece is none that the model takes; none is under way then.
        """
        row = self._free.pop()
        running = contextlib.ExitStack()
        running.callback(self._free.append, row)  # once all have been waited for
        try:
            for request, piece in zip(row[: len(pieces)], pieces, strict=True):
                for place, (array, handed) in enumerate(zip(piece, self._inputs, strict=True)):
                    request.set_input_tensor(place, handed(array))
                request.start_async()
                running.callback(request.wait)  # for each one, also where another raises
        except BaseException:
            running.close()
            raise

        def end() -> Arrays:
            running.close()
            return tuple([self._output(row[: len(pieces)], place) for place in range(len(self._outputs))])

        return end

    def _output(self, requests: Sequence[InferRequest], place: int) -> Tensor:
        found = torch.cat([torch.from_numpy(request.get_output_tensor(place).data) for request in requests])
        return found.to(self._outputs[place])  # a copy: a later forward writes to where it came from


def _handed_over(spec: TensorSpec) -> Callable[[Tensor], OpenVinoTensor]:
    """Return what hands an array to OpenVINO, in the memory where it is."""
    import openvino

    if spec.dtype != "bfloat16":
        return lambda array: openvino.Tensor(array.numpy(), shared_memory=True)
    return lambda array: openvino.Tensor(  # numpy has no bfloat16
        array.view(torch.int16).numpy(), openvino.Shape(list(array.shape)), openvino.Type.bf16
    )


def _settings(target: Target, streams: int) -> dict[str, object]:
    """So many forwards at a time, in the threads they share, which the kernel may move: others use these cores too.

    Left alone, it computes in bfloat16 wherever the processor does.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": target.threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": _PRECISIONS[target.dtype],
    }
