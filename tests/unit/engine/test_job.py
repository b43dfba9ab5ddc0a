"""Answers go to whoever asked: those of one batch together, and one to each request; and what a job is made of."""

import pytest

from service.engine.batcher import Request
from service.engine.job import Job, deliver, job_of
from service.engine.process import FrontEndConnection
from service.errors import Unprocessable
from service.signature import TensorSpec
from service.wire.messages import Failure, Infer, Tensors


class Asker:
    def __init__(self):
        self.calls = []

    def answer(self, *frames):
        self.calls.append(frames)


def delivery(id, asker):
    request = Request(id, "m", 1, 1e9)
    request.payload = Job(Infer(id, "m", 1, 1e9, False, Tensors()), asker, ())
    return request, Failure(id, "busy", "")


def test_each_asker_gets_the_answers_to_its_own_requests_at_once():
    one, other = Asker(), Asker()
    deliver([delivery(1, one), delivery(2, other), delivery(3, one)])
    assert one.calls == [(Failure(1, "busy", ""), Failure(3, "busy", ""))]
    assert other.calls == [(Failure(2, "busy", ""),)]


def test_a_front_end_gets_one_answer_to_a_request_of_which_two_examples_fail():
    connection = FrontEndConnection(None)
    sent = []

    class Answers:
        def send(self, frames):
            sent.append(frames)

    connection._answers = Answers()
    connection.waiting |= {1, 2}
    connection.answer(Failure(1, "busy", "one"), Failure(1, "busy", "two"))
    connection.answer(Failure(1, "busy", "three"))
    assert sent == [[Failure(1, "busy", "one")]]
    assert connection.waiting == {2}


INPUTS = (TensorSpec("ids", "int16", (3,)), TensorSpec("scale", "float32"), TensorSpec("flags", "bool", (2, 2)))
#: Of two examples; each block but the last is followed by a gap, up to a multiple of 64.
IDS, SCALE, FLAGS = bytes(range(12)), bytes(range(20, 28)), bytes([0, 1] * 4)


def asked(count, tensors):
    return Infer(1, "m", count, 1e9, False, tensors)


def test_a_job_has_the_block_of_each_input_where_it_lies():
    tensors = Tensors.of(IDS, SCALE, FLAGS)
    received = memoryview(bytearray(tensors.data))
    job = job_of(asked(2, Tensors(received)), None, INPUTS)
    assert [bytes(block) for block in job.blocks] == [IDS, SCALE, FLAGS]
    received[0] = received[64] = received[128] = 99  # no copy
    assert [block[0] for block in job.blocks] == [99] * 3


@pytest.mark.parametrize(
    ("count", "more"), [(2, -1), (2, 1), (1, 0), (3, 0), (2, -8), (2, 64)], ids=lambda value: str(value)
)
def test_bytes_that_are_not_those_of_its_examples_are_no_job(count, more):
    data = bytes(Tensors.of(IDS, SCALE, FLAGS).data)
    data = data[:more] if more < 0 else data + bytes(more)
    with pytest.raises(Unprocessable, match=rf"^{len(data)} bytes for {count} examples of \d+ bytes\.$"):
        job_of(asked(count, Tensors(data)), None, INPUTS)
