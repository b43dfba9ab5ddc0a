"""The answer of a classifier, from rows of numbers to JSON."""

from __future__ import annotations

import msgspec
import numpy as np

from service.signature import Signature
from service.tasks.outputs.answer import JSON
from service.tasks.outputs.classes import Answer, Class, ClassesOutput, Prediction, prediction, predictions

LABELS = ["tench", "goldfish", "shark"]


class Served:
    """The model that has answered."""

    name, version, answer, signature = "m", "v", {"labels": LABELS}, Signature()


def test_each_example_has_its_own_row_of_classes():
    ids = np.array([[2, 0], [1, 2]], np.int32)
    probabilities = np.array([[0.75, 0.25], [0.5, 0.125]], np.float32)
    assert predictions(ids, probabilities, LABELS) == [
        Prediction([Class(2, "shark", 0.75), Class(0, "tench", 0.25)]),
        Prediction([Class(1, "goldfish", 0.5), Class(2, "shark", 0.125)]),
    ]


def test_a_probability_has_seven_digits():
    third = float(np.float32(1 / 3))
    assert prediction([1], [third], LABELS).classes[0].probability == 0.3333333


def test_an_answer_is_written_in_the_order_that_clients_know():
    answer = Answer("m", "v", [prediction([0], [1.0], LABELS)])
    written = b'{"model":"m","version":"v","predictions":[{"classes":[{"id":0,"label":"tench","probability":1.0}]}]}'
    assert msgspec.json.encode(answer) == written


def test_of_all_classes_that_come_as_many_as_wished_are_written():
    output = ClassesOutput()
    results = [np.array([[0.5, 0.25, 0.25]], np.float32), np.array([[2, 0, 1]], np.int32)]
    wishes = output.agreed(output.wishes([("top_k", "2")], "", Served.signature), {})
    body, media_type, _ = output.write(results, Served, wishes)
    answer = msgspec.json.decode(body, type=Answer)
    assert answer == Answer("m", "v", [Prediction([Class(2, "shark", 0.5), Class(0, "tench", 0.25)])])
    assert media_type == JSON
