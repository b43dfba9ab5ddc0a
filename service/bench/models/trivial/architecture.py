"""Averages of a picture's corners and sides, and one layer."""

from torch import nn


def trivial() -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
