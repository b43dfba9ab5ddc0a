"""The function has a mode of its own, too."""

import torch
from net import Net
from torch.nn import functional

model = Net().eval()


@torch.inference_mode()
def predict(batch):
    return model(functional.batch_norm(batch, None, None, training=True))  # pitfall: batch-statistics
