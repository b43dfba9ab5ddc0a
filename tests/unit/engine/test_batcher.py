"""The batcher's laws, with a fake clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine.batcher import Batcher, Part, Request, halves, ladder, split

FAR = 1e9


def request(id: int, count: int = 1, model: str = "m", deadline: float = FAR, alone: bool = False) -> Request:
    return Request(id, model, count, deadline, alone=alone)


def ids(batch):
    return [part.request.id for part in batch.parts]


@pytest.mark.parametrize(
    ("cap", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (6, [1, 2, 4, 6]), (9, [1, 2, 4, 8, 9])]
)
def test_the_ladder_is_the_powers_of_two_below_the_cap_and_the_cap(cap, sizes):
    assert ladder(cap) == sizes


@given(cap=st.integers(2, 64), data=st.data())
def test_halves_are_smaller_sizes_of_the_ladder_and_lose_nobody(cap, data):
    size = data.draw(st.sampled_from(ladder(cap)[1:]))
    parts = halves(size, ladder(cap))
    assert sum(parts) == size
    assert all(part in ladder(cap) and part < size for part in parts)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_a_split_batch_has_the_same_examples_in_the_same_order(counts, data):
    parts = [Part(request(n, count), 3, 3 + count) for n, count in enumerate(counts)]
    sizes, rest = [], sum(counts)
    while rest:
        sizes.append(data.draw(st.integers(1, rest)))
        rest -= sizes[-1]

    def examples(parts):
        return [(part.request.id, number) for part in parts for number in range(part.start, part.stop)]

    batches = split(parts, sizes)
    assert [len(examples(batch)) for batch in batches] == sizes
    assert [example for batch in batches for example in examples(batch)] == examples(parts)


def test_a_lower_cap_holds_until_it_is_raised_again():
    batcher = Batcher({"m": 8})
    batcher.set_cap("m", 2)
    batcher.add(request(1, count=8), now=0.0)
    assert (batcher.cap("m"), batcher.take().size) == (2, 2)
    batcher.set_cap("m", 8)
    assert batcher.take().size == 4  # of the six that are left


def test_who_cannot_be_answered_in_time_any_more_is_dropped_before_the_forward():
    batcher = Batcher({"m": 8})
    batcher.add(request(1, deadline=10.0), now=0.0)
    assert batcher.drop_gone(9.0, {"m": 0.5}) == []
    assert [dropped.id for dropped in batcher.drop_gone(9.6, {"m": 0.5})] == [1]


def test_of_seventeen_waiting_it_takes_sixteen():
    batcher = Batcher({"m": 32})
    for n in range(17):
        batcher.add(request(n), now=0.0)
    assert batcher.take().size == 16
    assert batcher.take().size == 1


def test_an_empty_batcher_gives_nothing():
    assert Batcher({"m": 8}).take() is None


def test_a_request_larger_than_the_cap_rides_in_several_batches():
    batcher = Batcher({"m": 4})
    batcher.add(request(1, count=9), now=0.0)
    taken = [batcher.take() for _ in range(3)]
    assert [(part.start, part.stop) for batch in taken for part in batch.parts] == [(0, 4), (4, 8), (8, 9)]


def test_models_take_turns_so_that_a_flood_of_one_costs_the_other_one_batch():
    batcher = Batcher({"flooded": 4, "quiet": 4})
    for n in range(100):
        batcher.add(request(n, model="flooded"), now=0.0)
    batcher.take()
    batcher.add(request(200, model="quiet"), now=1.0)
    assert "quiet" in {batcher.take().model, batcher.take().model}


def test_who_must_go_alone_shares_a_batch_with_nobody_and_keeps_its_place():
    batcher = Batcher({"m": 8})
    for n in range(5):
        batcher.add(request(n, alone=n == 2), now=0.0)
    assert [ids(batcher.take()) for _ in range(3)] == [[0, 1], [2], [3, 4]]


def test_a_request_past_its_deadline_never_reaches_the_device():
    batcher = Batcher({"m": 8})
    batcher.add(request(1, deadline=5.0), now=0.0)
    batcher.add(request(2, deadline=9.0), now=0.0)
    assert [r.id for r in batcher.drop_gone(now=5.0)] == [1]
    assert ids(batcher.take()) == [2]


def test_a_cancelled_request_is_dropped_with_what_is_left_of_it():
    batcher = Batcher({"m": 2})
    batcher.add(request(1, count=5), now=0.0)
    batcher.take()
    batcher.cancel(1)
    assert [r.id for r in batcher.drop_gone(now=0.0)] == [1]
    assert batcher.take() is None
    assert batcher.depth("m") == 0


def test_a_model_that_nobody_serves_is_refused():
    with pytest.raises(KeyError):
        Batcher({"m": 1}).add(request(1, model="other"), now=0.0)


@given(st.integers(1, 40), st.lists(st.integers(1, 12), max_size=40))
def test_nothing_is_lost_nothing_comes_twice_and_order_is_kept(cap, counts):
    batcher = Batcher({"m": cap})
    for n, count in enumerate(counts):
        batcher.add(request(n, count), now=0.0)
    taken = []
    while batch := batcher.take():
        assert batch.size in ladder(cap)
        taken += [(part.request.id, i) for part in batch.parts for i in range(part.start, part.stop)]
    assert taken == [(n, i) for n, count in enumerate(counts) for i in range(count)]


class AnyTraffic(RuleBasedStateMachine):
    """Whatever comes in whatever order: every example ends taken once or dropped, never both."""

    def __init__(self):
        super().__init__()
        self.batcher = Batcher({"a": 8, "b": 3})
        self.now = 0.0
        self.requests: dict[int, Request] = {}
        self.taken: dict[int, list[int]] = {}
        self.dropped: set[int] = set()

    @rule(model=st.sampled_from("ab"), count=st.integers(1, 10), alone=st.booleans(), patience=st.floats(0.1, 5))
    def add(self, model, count, alone, patience):
        new = request(len(self.requests), count, model, self.now + patience, alone)
        self.requests[new.id] = new
        self.taken[new.id] = []
        self.batcher.add(new, self.now)

    @rule()
    def take(self):
        batch = self.batcher.take()
        if batch is None:
            return
        assert batch.size in ladder({"a": 8, "b": 3}[batch.model])
        assert len(batch.parts) == 1 or not any(part.request.alone for part in batch.parts)
        for part in batch.parts:
            assert part.request.model == batch.model
            assert part.request.id not in self.dropped
            self.taken[part.request.id] += range(part.start, part.stop)

    @rule(step=st.floats(0, 2))
    def wait_and_drop(self, step):
        self.now += step
        for gone in self.batcher.drop_gone(self.now):
            assert gone.deadline <= self.now or gone.gone
            assert gone.id not in self.dropped
            self.dropped.add(gone.id)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data):
        self.batcher.cancel(data.draw(st.sampled_from(sorted(self.requests))))

    @invariant()
    def every_example_is_taken_in_order_and_at_most_once(self):
        for taken in self.taken.values():
            assert taken == list(range(len(taken)))

    def teardown(self):
        while batch := self.batcher.take():
            for part in batch.parts:
                self.taken[part.request.id] += range(part.start, part.stop)
        for each in self.requests.values():
            assert each.id in self.dropped or self.taken[each.id] == list(range(each.count))


TestAnyTraffic = settings(max_examples=100, stateful_step_count=40, deadline=None)(AnyTraffic).TestCase


def test_a_batch_may_follow_one_of_its_own_model_only_and_of_requests_that_may_have_company():
    batcher = Batcher({"a": 8, "b": 8})
    assert batcher.next_in_company("a") == 0
    for number in range(5):
        batcher.add(request(number, model="a"), 0)
    assert batcher.next_in_company("a") == 4
    assert batcher.next_in_company("b") == 0
    batcher.add(request(10, 2, model="b"), 0)
    batcher.take()  # of a, so that it is b's turn
    assert batcher.next_in_company("a") == 0
    assert batcher.next_in_company("b") == 2
    batcher.add(request(11, 4, model="a", alone=True), 0)
    batcher.take()
    assert batcher.next_in_company("a") == 1  # the one before it
    batcher.take()
    assert batcher.next_in_company("a") == 0


def test_a_model_that_is_opened_later_takes_turns_with_the_others():
    batcher = Batcher({"a": 4})
    batcher.open("b", 2)
    for number, model in enumerate("aabb"):
        batcher.add(Request(number, model, 1, FAR), 0.0)
    assert [(batch.model, batch.size) for batch in (batcher.take(), batcher.take())] == [("a", 2), ("b", 2)]
