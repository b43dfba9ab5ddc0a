"""Examples lie side by side in the buffers of their slot, one for each input, and in no other."""

import pytest
import torch

from service.engine.staging import MOST_SLOT_BYTES, Staging, cap_of
from service.signature import TensorSpec

SHAPE = (3, 4, 4)
IMAGE = TensorSpec("image", "uint8", SHAPE)
#: Elements of 1, 2, 4 and 8 bytes, and examples that are single numbers.
SEVERAL = (
    TensorSpec("ids", "int64", (2,)),
    TensorSpec("scale", "float32"),
    TensorSpec("flag", "bool"),
    TensorSpec("vector", "bfloat16", (1, 3)),
)


def picture(value):
    return (memoryview(bytes([value]) * 48),)


def part(*numbers):
    """The blocks of examples that are told apart by these numbers, and the arrays that they are."""
    there = torch.tensor(numbers)
    arrays = (
        torch.stack([there, there + (1 << 40)], 1),
        there.float() / 3,
        there % 2 == 1,
        (there[:, None, None] * torch.tensor([[1.0, -2.0, 0.5]])).bfloat16(),
    )
    return [array.reshape(-1).view(torch.uint8).numpy().data for array in arrays], arrays


def test_what_was_put_into_one_slot_stays_until_that_is_filled_again():
    staging = Staging([1, 2, 4], [IMAGE], pinned=False)
    (first,) = staging.collate([picture(1), picture(2)], 0)
    (second,) = staging.collate([picture(3)], 1)
    assert first[:, 0, 0, 0].tolist() == [1, 2]
    assert second[:, 0, 0, 0].tolist() == [3]
    (third,) = staging.collate([picture(4)], 0)
    assert third[:, 0, 0, 0].tolist() == [4]
    assert second[:, 0, 0, 0].tolist() == [3]


def test_a_batch_that_nobody_reads_has_the_size_that_is_asked_for():
    staging = Staging([1, 2, 4], [IMAGE], pinned=False)
    assert [staging.as_it_is(size)[0].shape for size in (1, 2, 4)] == [(size, *SHAPE) for size in (1, 2, 4)]


def test_inputs_of_several_dtypes_are_put_side_by_side_each_in_its_own_buffer():
    staging = Staging([1, 2, 4], SEVERAL, pinned=False)
    parts = [part(3, 4), part(5), part(6)]
    collated = staging.collate([blocks for blocks, _ in parts], 0)
    _, expected = part(3, 4, 5, 6)
    assert [array.dtype for array in collated] == [torch.int64, torch.float32, torch.bool, torch.bfloat16]
    assert [array.shape for array in collated] == [(4, 2), (4,), (4,), (4, 1, 3)]
    assert all(torch.equal(one, other) for one, other in zip(collated, expected, strict=True))
    collated = staging.collate([part(9)[0]], 0)
    assert all(torch.equal(one, other) for one, other in zip(collated, part(9)[1], strict=True))


def test_examples_of_single_numbers_are_counted_by_their_bytes():
    staging = Staging([1, 2, 3], [TensorSpec("x", "float64")], pinned=False)
    numbers = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    for count in (1, 2, 3):
        (found,) = staging.collate([(numbers[:count].view(torch.uint8).numpy().data,)], 0)
        assert found.tolist() == numbers[:count].tolist()


def test_what_the_first_slot_was_filled_with_is_what_a_batch_that_nobody_reads_holds():
    """Zeros might be no rows of an embedding, or make a model raise."""
    staging = Staging([1, 2], SEVERAL, pinned=False)
    _, arrays = part(7, 8)
    staging.fill(arrays)
    for size in (1, 2):
        expected = [array[:size] for array in arrays]
        assert all(torch.equal(*pair) for pair in zip(staging.as_it_is(size), expected, strict=True))


@pytest.mark.parametrize(
    ("example_bytes", "cap"),
    [
        (MOST_SLOT_BYTES, 1),
        (MOST_SLOT_BYTES + 1, 1),
        (MOST_SLOT_BYTES // 2, 2),
        (MOST_SLOT_BYTES // 2 + 1, 1),
        (3 * 224 * 224, 445),
        (1, MOST_SLOT_BYTES),
        (0, MOST_SLOT_BYTES),
    ],
)
def test_a_slot_takes_no_more_than_its_most_bytes_but_for_a_single_example(example_bytes, cap):
    assert cap_of(example_bytes) == cap
    assert cap == 1 or cap * example_bytes <= MOST_SLOT_BYTES == 64 << 20
