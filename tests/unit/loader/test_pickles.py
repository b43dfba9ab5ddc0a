"""Pickles that are more than tensors: what they hold is told, with the lines that save it again, and none is run."""

import argparse

import pytest
import torch
import torchvision
from torch import nn

from service.errors import ConfigurationError
from service.loader.checkpoint import read_content


def refused(tmp_path, content, name="weights.pth", **options):
    path = tmp_path / name
    torch.save(content, path, **options)
    with pytest.raises(ConfigurationError) as caught:
        read_content(path)
    [problem] = caught.value.problems
    assert "\x1b" not in problem
    return problem.removeprefix(f"{path}: weights: ")


FORMATS = [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}]


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "of old", "protocol 4"])
def test_a_whole_model_is_told_by_its_class_with_the_lines_that_save_it_again(tmp_path, options):
    problem = refused(tmp_path, torchvision.models.resnet18(), **options)
    assert problem == (
        "holds a whole model, a pickled torchvision.models.resnet.ResNet, and unpickling it could run code; "
        'where it was trained, run model = torch.load("weights.pth", weights_only=False) and '
        'torch.save(model.state_dict(), "weights.pth")'
    )


@pytest.mark.parametrize("options", [FORMATS[0], FORMATS[2]], ids=["zip", "protocol 4"])
def test_a_whole_model_in_a_checkpoint_is_told_with_its_key(tmp_path, options):
    content = {"epoch": 3, "args": argparse.Namespace(lr=1), "model": nn.Sequential(nn.Linear(2, 2)), "ema": None}
    problem = refused(tmp_path, content, "last.pt", **options)
    assert problem == (
        "holds a whole model, a pickled torch.nn.modules.container.Sequential, and unpickling it could run code; "
        'where it was trained, run model = torch.load("last.pt", weights_only=False)["model"] and '
        'torch.save(model.state_dict(), "weights.pth")'
    )


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "of old", "protocol 4"])
def test_more_than_tensors_is_told_by_what_it_needs(tmp_path, options):
    content = {"args": argparse.Namespace(lr=1), "model": nn.Linear(2, 2).state_dict()}
    assert refused(tmp_path, content, "last.ckpt", **options) == (
        "holds more than tensors: it needs argparse.Namespace, and unpickling that could run code; "
        "where it was trained, save the state_dict alone: "
        'torch.save(torch.load("last.ckpt", weights_only=False)["model"], "weights.pth")'
    )
