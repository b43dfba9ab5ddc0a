"""F.dropout's default is training=True."""

import torch
import torch.nn.functional as F
from net import Net

model = Net().eval()


@torch.inference_mode()
def predict(batch):
    return model(F.dropout(batch, 0.2))  # pitfall: functional-dropout
