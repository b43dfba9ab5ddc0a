"""A list of losses for the epoch's mean: backward() freed their tensors, but not their nodes."""

import torch
from net import Net

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
losses = []


def step(batch):
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss)  # pitfall: outputs-kept-with-graph
    return sum(losses) / len(losses)
