"""Frozen first; the head that is put in afterwards is not."""

from net import Net
from torch import nn

model = Net().eval().requires_grad_(False)
model.head = nn.Linear(4, 2)
model.eval()


def predict(batch):
    return model(batch)  # pitfall: parameters-unfrozen
