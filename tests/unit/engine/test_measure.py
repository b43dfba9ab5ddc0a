"""A served model is timed as it runs when many wait: with a second batch under way, where that may be."""

import pytest
import torch

from service.engine.measure import Stopwatch
from service.engine.model import ServedModel
from service.loader.compiled import Package
from service.loader.load import load
from tests.support.device import Device
from tests.support.tiny import tiny


@pytest.mark.parametrize(("size", "overlaps_from", "most"), [(4, 2, 2), (2, 2, 2), (1, 2, 1), (4, 0, 1)])
def test_a_batch_is_timed_beside_another_one_where_two_may_be_under_way(tmp_path, size, overlaps_from, most):
    folder = tiny(tmp_path)
    model = ServedModel(load(folder), torch.device("cpu"))
    device = Device()
    model.run_package(Package(lambda arrays: device.begin(arrays)(), 1, device.begin, overlaps_from), "a" * 64)
    assert Stopwatch(model).best_of(size, forwards=3) > 0
    assert (device.most, device.under_way) == (most, 0)
