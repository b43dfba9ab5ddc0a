"""A sum of losses over the epoch that is a tensor, with every step's graph behind it."""

import torch
from net import Net

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
total = 0.0


def step(batch):
    global total
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    optimizer.step()
    total += loss  # pitfall: outputs-kept-with-graph
    return loss.item()
