"""No false alarm: torchvision's models pass the proof as they come. `make models` runs the other seventy."""

import pytest
import torch

from tests.support.catalogue import SMALL, prove_torchvision

#: Pictures are small here: what the rules look at is the code, and `make models` proves them at 224 pixels.
SIDE = 96


@pytest.fixture(autouse=True)
def _one_thread():
    """Two would wait for each other wherever something else has a core."""
    torch.set_num_threads(1)


#: With depthwise convolutions and squeezes, with residues, and with branches that are joined.
IN_BFLOAT16 = {"mobilenet_v3_small", "resnet18", "squeezenet1_1"}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in SMALL),
        *(pytest.param(name, torch.bfloat16, marks=() if name in IN_BFLOAT16 else pytest.mark.full) for name in SMALL),
    ],
    ids=str,
)
def test_a_torchvision_model_is_proven(tmp_path, name, dtype):
    report = prove_torchvision(name, tmp_path, dtype, SIDE)
    assert report.refusal == ""
    assert report.inconclusive == ""
