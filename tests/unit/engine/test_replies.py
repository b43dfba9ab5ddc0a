"""A request is answered when all of its examples are, or when one of them fails."""

import pytest
import torch

from service.engine.batcher import Part, Request
from service.engine.job import Job
from service.engine.pace import Pace
from service.engine.replies import Replies
from service.errors import ModelOutputInvalid
from service.signature import Signature, TensorSpec
from service.tasks.outputs.results import results_of
from service.wire.messages import Failure, Infer, Result, Tensors

#: Of odd sizes, so that the second and the third begin behind a gap.
OUTPUTS = (
    TensorSpec("scores", "float32", (3,)),
    TensorSpec("flags", "bool", (5,)),
    TensorSpec("length", "int64"),
    TensorSpec("vector", "bfloat16", (2, 1)),
)


@pytest.fixture
def cancelled():
    return []


@pytest.fixture
def replies(cancelled):
    return Replies(Pace(), cancelled.append)


def request(id, count, added=0.0):
    made = Request(id, "m", count, 1e9, added=added)
    made.payload = Job(Infer(id, "m", count, 1e9, False, Tensors()), None, ())
    return made


def rows(*numbers):
    """The results of examples that are told apart by these numbers."""
    there = torch.tensor(numbers)
    return (
        there[:, None] + torch.tensor([0.0, 0.25, 0.5]),
        (there[:, None] + torch.arange(5)) % 2 == 1,
        there,
        (there[:, None, None] * torch.tensor([[1.0], [2.0]])).bfloat16(),
    )


def read(answer, count):
    """What an answer says, by output, as lists."""
    return [result.tolist() for result in results_of(answer.tensors.data, Signature((), OUTPUTS), count)]


def expected(*numbers):
    return [result.tolist() for result in rows(*numbers)]


def test_a_request_in_two_batches_is_answered_after_the_second_with_every_output_in_order(replies):
    asked = request(1, 3, added=10.0)
    assert replies.add([Part(asked, 0, 2)], rows(5, 6), {}, began=12.0, seconds=0.25) == []
    [(who, answer)] = replies.add([Part(asked, 2, 3)], rows(7), {}, began=15.0, seconds=0.5)
    assert who is asked
    assert isinstance(answer, Result)
    assert read(answer, 3) == expected(5, 6, 7)
    assert (answer.queue_seconds, answer.forward_seconds) == (5.0, 0.75)


def test_each_request_of_a_batch_gets_its_own_rows(replies):
    one, other = request(1, 1), request(2, 2)
    answers = replies.add([Part(one, 0, 1), Part(other, 0, 2)], rows(5, 6, 7), {}, began=1.0, seconds=0.1)
    assert {asked.id: read(answer, asked.count) for asked, answer in answers} == {1: expected(5), 2: expected(6, 7)}


def test_parts_of_several_requests_over_three_batches_are_never_mixed(replies):
    one, two, three = request(1, 4), request(2, 3), request(3, 1)
    answers = replies.add([Part(one, 0, 2)], rows(10, 11), {}, 1.0, 0.1)
    answers += replies.add([Part(one, 2, 4), Part(two, 0, 2)], rows(12, 13, 20, 21), {}, 2.0, 0.1)
    answers += replies.add([Part(two, 2, 3), Part(three, 0, 1)], rows(22, 30), {}, 3.0, 0.1)
    assert [asked.id for asked, _ in answers] == [1, 2, 3]
    found = {asked.id: read(answer, asked.count) for asked, answer in answers}
    assert found == {1: expected(10, 11, 12, 13), 2: expected(20, 21, 22), 3: expected(30)}


def test_one_example_that_is_no_answer_fails_its_request_alone_and_the_rest_of_it_need_not_run(replies, cancelled):
    bad, good = request(1, 5), request(2, 1)
    parts = [Part(bad, 0, 2), Part(good, 0, 1)]
    answers = {asked.id: answer for asked, answer in replies.add(parts, rows(5, 6, 7), {1: "NaN."}, 1.0, 0.1)}
    assert answers[1] == Failure(1, ModelOutputInvalid.name, "NaN.")
    assert read(answers[2], 1) == expected(7)
    assert cancelled == [1]


def test_faults_of_several_rows_fail_each_its_own_request_with_its_own_words(replies, cancelled):
    asked = [request(id, 1) for id in range(4)]
    parts = [Part(each, 0, 1) for each in asked]
    found = replies.add(parts, rows(5, 6, 7, 8), {0: "first", 3: "last"}, 1.0, 0.1)
    answers = {request.id: answer for request, answer in found}
    assert {id: getattr(answer, "detail", "") for id, answer in answers.items()} == {
        0: "first",
        1: "",
        2: "",
        3: "last",
    }
    assert [read(answers[id], 1) for id in (1, 2)] == [expected(6), expected(7)]
    assert cancelled == [0, 3]
