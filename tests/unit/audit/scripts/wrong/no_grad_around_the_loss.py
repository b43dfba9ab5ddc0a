"""backward() refuses."""

import torch
from net import Net

model = Net()


def step(batch):
    with torch.no_grad():  # pitfall: no-gradient-reaches
        loss = model(batch).square().mean()
    loss.backward()
    return loss
