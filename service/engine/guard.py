"""Guards, which tell whether a model that serves is still the one that was proven."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor, nn

from service.loader.freeze import sealing, tensors
from service.wire.specs import ExitCode


class CaughtError(Exception):
    """A model is not what was proven, so its process ends; `code` says in which way.

    What it answers from here on nobody could trust, and only a fresh process has nothing of it.
    """

    def __init__(self, model: str, code: ExitCode, detail: str) -> None:
        super().__init__(detail)
        self.model = model
        self.code = code


class Guard:
    """Watches over one model. Made after its proof, when it is as it will stay.

    Args:
        inputs: the memory in which batches come. A model may return what it was given, which is an ordinary tensor.
    """

    def __init__(self, model: str, inputs: Sequence[Tensor]) -> None:
        self._model = model
        self._storages = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def look(self, outputs: Sequence[Tensor]) -> None:
        """Look at what a batch gave and left behind; takes about 6 µs for 122 tensors.

        Raises:
            CaughtError: the outputs are part of a graph, inference mode is off, or somebody wrote to the weights.
        """
        if not torch.is_inference_mode_enabled():
            raise CaughtError(self._model, ExitCode.VIOLATION, "forward left inference mode off")
        for output in outputs:
            if output.grad_fn is not None or output.requires_grad:
                raise CaughtError(self._model, ExitCode.VIOLATION, "the outputs are part of a gradient graph")
            if not output.is_inference() and output.untyped_storage().data_ptr() not in self._storages:
                raise CaughtError(self._model, ExitCode.VIOLATION, "the outputs were not made under inference_mode")

    def verify_once(self) -> Generator[None, None, None]:
        """One pass over all that the model is, in steps.

        Raises:
            CaughtError: at its end, when it is not what was proven.
        """
        raise NotImplementedError


class WeightsGuard(Guard):
    """Guards a module: looks at version counters after each batch, and hashes the weights.

    Args:
        seal: SHA-256 over the weights, as they were loaded.
    """

    def __init__(self, model: str, inputs: Sequence[Tensor], module: nn.Module, seal: str) -> None:
        super().__init__(model, inputs)
        self._module = module
        self._seal = seal
        # Those made in inference mode keep no count; the seal has them.
        self._counted = [tensor for _, tensor in tensors(module) if not tensor.is_inference()]
        self._storages |= {tensor.untyped_storage().data_ptr() for tensor in self._counted}
        self._writes = self._count_writes()

    def look(self, outputs: Sequence[Tensor]) -> None:
        super().look(outputs)
        if self._count_writes() != self._writes:
            raise CaughtError(self._model, ExitCode.SEAL_BROKEN, "a parameter or buffer was written to in place")

    def _count_writes(self) -> int:
        """Any in-place change moves a tensor's version, in inference mode too; one through `.data` does not."""
        return sum(tensor._version for tensor in self._counted)

    def verify_once(self) -> Generator[None, None, None]:
        found = yield from sealing(self._module)
        if found != self._seal:
            raise CaughtError(self._model, ExitCode.SEAL_BROKEN, f"the weights hash to {found[:12]}, not to their seal")


class PackageGuard(Guard):
    """Guards a compiled package, whose weights are constants in native code: has it answer a fixed input again.

    Args:
        probe: gives the bits of that answer.
    """

    def __init__(self, model: str, inputs: Sequence[Tensor], probe: Callable[[], str]) -> None:
        super().__init__(model, inputs)
        self._probe = probe
        self._expected = probe()

    def verify_once(self) -> Generator[None, None, None]:
        yield
        if self._probe() != self._expected:
            words = "the package answers a fixed input with other bits than when it was proven"
            raise CaughtError(self._model, ExitCode.SEAL_BROKEN, words)
