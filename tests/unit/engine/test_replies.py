"""A request is answered when all of its examples are, or when one of them fails."""

import numpy as np
import pytest

from service.engine.batcher import Part, Request
from service.engine.job import Job
from service.engine.pace import Pace
from service.engine.replies import Replies
from service.errors import ModelOutputInvalid
from service.wire.messages import Failure, Infer, Result


@pytest.fixture
def cancelled():
    return []


@pytest.fixture
def replies(cancelled):
    return Replies(Pace(), cancelled.append)


def request(id, count, top_k=1, added=0.0):
    made = Request(id, "m", count, 1e9, added=added)
    made.payload = Job(Infer(id, "m", count, top_k, 1e9, False, memoryview(b"")), None)
    return made


def rows(*best):
    """Two classes for each example, of which the first one's probability is this."""
    probabilities = np.array([[value, 0.1] for value in best], np.float32)
    return probabilities, np.array([[number, 9] for number in range(len(best))], np.int32)


def test_a_request_in_two_batches_is_answered_after_the_second(replies):
    asked = request(1, 3, added=10.0)
    assert replies.add([Part(asked, 0, 2)], *rows(0.5, 0.6), began=12.0, seconds=0.25) == []
    [(who, answer)] = replies.add([Part(asked, 2, 3)], *rows(0.7), began=15.0, seconds=0.5)
    assert who is asked
    assert isinstance(answer, Result)
    assert np.frombuffer(answer.probabilities, np.float32).tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert (answer.queue_seconds, answer.forward_seconds) == (5.0, 0.75)


def test_each_request_of_a_batch_gets_its_own_rows_and_as_many_classes_as_it_asks_for(replies):
    one, other = request(1, 1, top_k=2), request(2, 2)
    answers = replies.add([Part(one, 0, 1), Part(other, 0, 2)], *rows(0.5, 0.6, 0.7), began=1.0, seconds=0.1)
    found = {asked.id: (answer.k, np.frombuffer(answer.ids, np.int32).tolist()) for asked, answer in answers}
    assert found == {1: (2, [0, 9]), 2: (1, [1, 2])}


def test_one_example_that_is_no_answer_fails_its_request_alone_and_the_rest_of_it_need_not_run(replies, cancelled):
    bad, good = request(1, 5), request(2, 1)
    parts = [Part(bad, 0, 1), Part(good, 0, 1)]
    answers = {asked.id: answer for asked, answer in replies.add(parts, *rows(float("nan"), 0.5), 1.0, 0.1)}
    assert isinstance(answers[1], Failure)
    assert answers[1].error == ModelOutputInvalid.name
    assert isinstance(answers[2], Result)
    assert cancelled == [1]
