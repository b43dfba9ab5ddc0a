"""Answers go to whoever asked: those of one batch together, and one to each request."""

from service.engine.batcher import Request
from service.engine.job import Job, deliver
from service.engine.process import FrontEndConnection
from service.wire.messages import Failure, Infer


class Asker:
    def __init__(self):
        self.calls = []

    def answer(self, *frames):
        self.calls.append(frames)


def delivery(id, asker):
    request = Request(id, "m", 1, 1e9)
    request.payload = Job(Infer(id, "m", 1, 1, 1e9, False, memoryview(b"")), asker)
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
