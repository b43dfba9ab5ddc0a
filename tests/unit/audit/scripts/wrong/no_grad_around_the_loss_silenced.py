"""What people do about that error: backward() runs now, and reaches nothing."""

import torch
from net import Net

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


@torch.no_grad()  # pitfall: no-gradient-reaches
def loss_of(batch):
    return model(batch).square().mean()


def step(batch):
    loss = loss_of(batch).requires_grad_(True)
    loss.backward()
    optimizer.step()
    return loss.item()
