"""An attention whose dropout is a number, not a mode."""

import torch
from net import Net
from torch.nn import functional

model = Net().eval()


@torch.no_grad()
def predict(batch):
    x = batch.flatten(2)
    x = functional.scaled_dot_product_attention(x, x, x, dropout_p=0.1)  # pitfall: functional-dropout
    return model(x.view_as(batch))
