"""Frozen features in eval mode, under no_grad; the head learns."""

import torch
from net import Net

model = Net()
model.train()
model.features.eval().requires_grad_(False)
optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)


def predict(batch):
    with torch.no_grad():
        features = model.features(batch).mean((2, 3))
    loss = model.head(features).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
