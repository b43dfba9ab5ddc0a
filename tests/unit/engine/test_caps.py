"""A batch that found too little memory is not formed again until many smaller ones went well."""

import pytest

from service.engine.batcher import Batcher, ladder
from service.engine.caps import BATCHES_TO_RECOVER, Caps
from service.host.metric_memory import make_metric_memory
from service.metrics import Metrics, render


@pytest.fixture
def memory():
    return make_metric_memory()


@pytest.fixture
def learning(memory):
    batcher = Batcher({"m": 8})
    return batcher, Caps({"m": ladder(8)}, batcher, Metrics("engine-cpu-a", memory))


def test_the_next_smaller_size_becomes_the_cap(learning):
    batcher, caps = learning
    caps.too_large("m", 8)
    assert batcher.cap("m") == 4
    caps.too_large("m", 2)
    assert batcher.cap("m") == 1


def test_one_example_alone_is_never_too_large_to_try(learning):
    batcher, caps = learning
    caps.too_large("m", 1)
    assert batcher.cap("m") == 8
    caps.too_large("m", 2)
    caps.too_large("m", 1)
    assert batcher.cap("m") == 1


def test_a_retry_in_pieces_lowers_the_cap_once_for_each_size_that_failed(learning):
    batcher, caps = learning
    caps.too_large("m", 8)
    caps.too_large("m", 8)
    assert batcher.cap("m") == 4


def test_it_rises_by_one_size_after_many_full_batches(learning):
    batcher, caps = learning
    caps.too_large("m", 4)
    for _ in range(BATCHES_TO_RECOVER):
        caps.went_well("m", 2)
        caps.went_well("m", 1)  # proves nothing about larger ones
    assert batcher.cap("m") == 2
    caps.went_well("m", 2)
    assert batcher.cap("m") == 4
    caps.went_well("m", 4)
    assert batcher.cap("m") == 4


def test_the_cap_is_in_the_metrics(learning, memory):
    _, caps = learning
    caps.too_large("m", 8)
    assert 'gradless_batch_cap{model="m"} 4.0' in render(memory)[0].decode()
