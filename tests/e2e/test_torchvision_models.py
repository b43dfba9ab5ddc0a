"""No false alarm: torchvision's models pass the proof as they come. `make models` runs the other seventy."""

import pytest
import torch

from tests.support.catalogue import SMALL, prove_torchvision

#: Pictures are small here: what the rules look at is the code, and `make models` proves them at 224 pixels.
SIDE = 96


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_a_torchvision_model_is_proven(tmp_path, name, dtype):
    report = prove_torchvision(name, tmp_path, dtype, SIDE)
    assert report.refusal == ""
    assert report.inconclusive == ""
