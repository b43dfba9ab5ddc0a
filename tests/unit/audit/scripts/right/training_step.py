"""Train mode, gradients, and a loss that is a number before it is kept."""

import torch
from net import Net

model = Net()
model.train()
optimizer = torch.optim.Adam(model.parameters())
losses = []


def predict(batch):
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    return losses[-1]
