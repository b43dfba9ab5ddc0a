"""Fine-tuning the head: requires_grad=False does not stop what is no gradient."""

import torch
from net import Net

model = Net()
model.features.requires_grad_(False)
model.train()
optimizer = torch.optim.SGD(model.head.parameters(), lr=0.01)


def step(batch):
    loss = model(batch).square().mean()  # pitfall: frozen-batchnorm-moves
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
