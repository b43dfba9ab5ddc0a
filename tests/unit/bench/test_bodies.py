"""Bodies for a model: photographs where it sees pictures, and else files of numpy that its signature allows."""

import io
import json

import msgspec
import numpy as np
import pytest

from service.bench.bodies import ARRAYS, Seen, bodies
from service.bench.choice import seen_by
from service.signature import Signature
from service.tasks.inputs.tensor_bodies import TensorsInput
from tests.support.models import make_models

HEAD = 'weights = "factory"\narchitecture = "net:make"\n'
IDS = '[inputs.ids]\ndtype = "int64"\nshape = [4]\nrange = [10, 12]\n'
X = "[inputs.x]\nshape = [2, 3]\n"
NET = "from torch import nn\n\n\ndef make():\n    return nn.Identity()\n"


def seen(root, card):
    make_models(root, one=HEAD + card)
    (root / "one" / "net.py").write_text(NET)
    return seen_by(root, "one")


def test_a_model_of_pictures_is_sent_photographs_of_its_side(tmp_path):
    found = seen(tmp_path, "[input]\nresize = 40\ncrop = 32\n")
    assert (found, found.content_type) == (Seen(32), "image/jpeg")
    assert all(body.startswith(b"\xff\xd8\xff") for body in bodies(found))


@pytest.mark.parametrize(
    ("inputs", "content_type"), [(IDS, "application/x-npy"), (IDS + X, "application/x-npz")], ids=["one", "two"]
)
def test_a_model_of_tensors_is_sent_different_examples_that_it_takes(tmp_path, inputs, content_type):
    found = seen(tmp_path, inputs)
    assert found.content_type == content_type
    made = bodies(found)
    assert len({*made}) == len(made) == ARRAYS
    reader = TensorsInput({}, Signature(found.inputs), 0)
    for body in made:
        given = reader.read(content_type, body, 1)
        assert given.count == 1


def test_what_is_drawn_is_within_its_range(tmp_path):
    found = [np.load(io.BytesIO(body)) for body in bodies(seen(tmp_path, IDS))]
    assert all((array.dtype, array.shape) == (np.int64, (1, 4)) for array in found)
    assert {number for array in found for number in array.flatten().tolist()} == {10, 11, 12}


def loaded(files):
    return [{name: array.tolist() for name, array in np.load(io.BytesIO(body)).items()} for body in files]


def test_what_a_model_sees_survives_the_way_to_the_generators_process(tmp_path):
    found = seen(tmp_path, IDS + X)
    sent = msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(found))), Seen)
    assert [(spec.name, spec.dtype, spec.shape) for spec in sent.inputs] == [
        ("ids", "int64", (4,)),
        ("x", "float32", (2, 3)),
    ]
    assert len(bodies(found)) == ARRAYS
    assert loaded(bodies(sent)) == loaded(bodies(found))
