"""eval() first, and a fresh layer put in afterwards: layers are born in train mode."""

import torch
from net import Net
from torch import nn

model = Net().eval()
model.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))


def predict(batch):
    with torch.inference_mode():
        return model(batch)  # pitfall: forgot-eval
