"""Examples lie side by side in the buffer of their slot, and in no other."""

from service.engine.staging import Staging

SHAPE = (3, 4, 4)


def picture(value):
    return memoryview(bytes([value]) * 48)


def test_what_was_put_into_one_slot_stays_until_that_is_filled_again():
    staging = Staging([1, 2, 4], SHAPE, pinned=False)
    first = staging.collate([picture(1), picture(2)], 0)
    second = staging.collate([picture(3)], 1)
    assert first[:, 0, 0, 0].tolist() == [1, 2]
    assert second[:, 0, 0, 0].tolist() == [3]
    third = staging.collate([picture(4)], 0)
    assert third[:, 0, 0, 0].tolist() == [4]
    assert second[:, 0, 0, 0].tolist() == [3]


def test_a_batch_that_nobody_reads_has_the_size_that_is_asked_for():
    staging = Staging([1, 2, 4], SHAPE, pinned=False)
    assert [staging.as_it_is(size).shape for size in (1, 2, 4)] == [(size, *SHAPE) for size in (1, 2, 4)]
