"""Make a module a pure function, and give it a name that changes when anything of it does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from service.loader.card import Card, canonical


def freeze(module: nn.Module) -> None:
    """`eval()` fixes Dropout and BatchNorm; `requires_grad_(False)` fixes every parameter."""
    module.eval()
    module.requires_grad_(False)


def seal(module: nn.Module) -> str:
    """SHA-256, in hex, over every parameter and buffer: name, dtype, shape and bytes.

    It does not depend on the memory format, nor on the device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module), key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def version(sealed: str, card: Card, labels: list[str], architecture: bytes) -> str:
    """The first 12 hex digits of SHA-256 over seal, card, labels and the architecture's source."""
    digest = hashlib.sha256()
    for part in (sealed.encode(), canonical(card), "\n".join(labels).encode(), architecture):
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


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
