"""The callable is a module."""

from net import Net

predict = Net().eval().requires_grad_(False)
