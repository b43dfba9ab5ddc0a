"""A large body is read beside the event loop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from service.frontend.predict import Predictor
from service.frontend.protocols.native import NativeExchange
from service.frontend.protocols.protocol import LARGE_BYTES, Asked, Sides
from service.settings import read_settings
from service.tasks.inputs.input import Given
from service.tasks.outputs.classes import ClassesOutput
from service.wire.messages import ModelState


class Reader:
    """Keeps the threads that it was asked in."""

    example_bytes = 1

    def __init__(self) -> None:
        self.threads = []

    def read(self, content_type, body, most):
        self.threads.append(threading.current_thread())
        return Given(1, [body], {})


class Known:
    models = ()


class Nobody:
    known = Known()


def read(reader, content_type, size):
    predictor = Predictor(Nobody(), None, read_settings({}), None, None)
    sides = Sides(reader, None, ClassesOutput())
    exchange = NativeExchange(Asked({"content-type": content_type}), sides, ModelState("m", "ready"))
    return asyncio.run(predictor._read(exchange, b"x" * size, time.monotonic() + 60))


@pytest.mark.parametrize(
    ("content_type", "size", "on_the_loop"),
    [
        ("application/json", LARGE_BYTES - 1, True),
        ("application/json", LARGE_BYTES, False),
        ("image/jpeg", LARGE_BYTES, True),
    ],
)
def test_a_large_body_is_read_in_a_thread_unless_it_is_passed_on_as_it_is(content_type, size, on_the_loop):
    reader = Reader()
    assert read(reader, content_type, size).items == [b"x" * size]
    assert (reader.threads == [threading.main_thread()]) is on_the_loop
