"""The model is as it was made: in train mode."""

import torch
from net import Net

model = Net()


@torch.no_grad()
def predict(batch):
    return model(batch).softmax(1)  # pitfall: forgot-eval
