"""Make a module a pure function, and give it a name that changes when anything of it does."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor, nn

from service.loader.card import Card, canonical

PIECE_BYTES = 1 << 20


def freeze(module: nn.Module) -> None:
    """`eval()` fixes Dropout and BatchNorm; `requires_grad_(False)` fixes every parameter."""
    module.eval()
    module.requires_grad_(False)


def seal(module: nn.Module) -> str:
    """Return the SHA-256, in hex, over every parameter and buffer: name, dtype, shape and bytes.

    It does not depend on the memory format, nor on the device.
    """
    steps = sealing(module)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return str(end.value)


def sealing(module: nn.Module) -> Generator[None, None, str]:
    """Compute `seal` in steps of at most a few milliseconds, so that the caller can do other work in between."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors(module), key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in pieces_of(tensor.detach()):
            digest.update(bytes_of(piece))
            yield
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in C order, where they are if they are so on the CPU; numpy lacks some dtypes."""
    return tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data


def pieces_of(tensor: Tensor) -> Sequence[Tensor]:
    """Split a tensor in order into pieces of about a mebibyte; in another memory format by rows, not copied."""
    if tensor.is_contiguous():
        tensor = tensor.reshape(-1)
    if not tensor.numel() or not tensor.dim():
        return [tensor]
    row_bytes = tensor.element_size() * tensor[0].numel()
    return torch.split(tensor, max(1, PIECE_BYTES // row_bytes))


def version(sealed: str, card: Card, labels: list[str], architecture: bytes, *more: bytes) -> str:
    """Return the first 12 hex digits of SHA-256 over seal, card, labels, the architecture's source, and more parts."""
    digest = hashlib.sha256()
    for part in (sealed.encode(), canonical(card), "\n".join(labels).encode(), architecture, *more):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:12]


def memory_bytes(module: nn.Module) -> dict[str, int]:
    """Bytes of `parameters` and `buffers`; memory that several tensors share counts once."""
    seen: set[int] = set()
    sizes = {}
    for kind, tensors in (("parameters", module.parameters()), ("buffers", module.buffers())):
        storages = [tensor.untyped_storage() for tensor in tensors]
        new = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in seen}
        seen |= new.keys()
        sizes[kind] = sum(new.values())
    return sizes


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer with its name; a shared one under each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
