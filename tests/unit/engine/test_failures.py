"""What an exception means is told from its type or its words."""

import pytest
import torch

from service.engine.failures import is_device_lost, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("Exception from src/inference: Failed to allocate 8589934592 bytes of memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_no_lost_device(error):
    assert is_out_of_memory(error)
    assert not is_device_lost(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        *(
            [torch.AcceleratorError("CUDA error: unspecified launch failure")]
            if hasattr(torch, "AcceleratorError")
            else []
        ),
    ],
)
def test_any_other_error_of_the_device_is_final(error):
    assert is_device_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", [ValueError("CUDA error"), RuntimeError("mat1 and mat2"), SystemExit(1)])
def test_what_a_model_raises_is_neither(error):
    assert not is_out_of_memory(error)
    assert not is_device_lost(error)


def test_a_real_allocation_that_fails_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
