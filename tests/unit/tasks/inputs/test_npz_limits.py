"""How much an npz file may hold: as many instances as are allowed, whatever their dtype, and no more."""

import io

import numpy as np
import pytest

from service.errors import TooLarge
from service.signature import Signature, TensorSpec
from service.tasks.inputs.numbers import DTYPES
from service.tasks.inputs.tensor_bodies import TensorsInput

MOST = 3


def npz(specs, count):
    file = io.BytesIO()
    np.savez_compressed(file, **{spec.name: np.zeros((count, *spec.shape), DTYPES[spec.dtype]) for spec in specs})
    return file.getvalue()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (200, 200)])
def test_as_many_instances_as_are_allowed_are_read_whatever_their_dtype(dtype, shape):
    specs = TensorSpec("a", dtype, shape), TensorSpec("b", "int64")
    reader = TensorsInput({}, Signature(specs), 0)
    assert reader.read("application/x-npz", npz(specs, MOST), MOST).count == MOST
    with pytest.raises(TooLarge):
        reader.read("application/x-npz", npz(specs, MOST + 1), MOST)


def test_what_unpacks_to_far_more_is_refused_before_it_is_unpacked():
    specs = (TensorSpec("a", "float32", (3,)),)
    bomb = npz((TensorSpec("a", "float32", (1000, 1000)),), 10)
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge, match="over the limit of"):
        TensorsInput({}, Signature(specs), 0).read("application/x-npz", bomb, MOST)
