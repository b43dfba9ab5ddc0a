"""Causes of an exception from a forward: too little memory, a lost device, or the input's or the model's own fault."""

from __future__ import annotations

import torch

#: In the words of torch, of the C library, of C++ and of OpenVINO.
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "Failed to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a smaller batch may well succeed."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Tell whether the CUDA context is beyond repair: any CUDA error but too little memory is final for the process."""
    if is_out_of_memory(error):
        return False
    accelerator = getattr(torch, "AcceleratorError", ())  # since torch 2.8; before, a RuntimeError says it in words
    return isinstance(error, accelerator) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
