"""The answer of a classifier, from rows of numbers to JSON."""

from __future__ import annotations

import msgspec
import numpy as np

from service.tasks.outputs.classes import Answer, Class, Prediction, prediction, predictions

LABELS = ["tench", "goldfish", "shark"]


def test_each_example_has_its_own_row_of_classes():
    ids = np.array([[2, 0], [1, 2]], np.int32).tobytes()
    probabilities = np.array([[0.75, 0.25], [0.5, 0.125]], np.float32).tobytes()
    assert predictions(2, 2, ids, probabilities, LABELS) == [
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
