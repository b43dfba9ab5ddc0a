"""The function is told the module's mode."""

import torch
from net import Net
from torch.nn import functional


class Obeying(Net):
    def forward(self, x):
        return functional.dropout(super().forward(x), 0.5, self.training)


model = Obeying().eval()


@torch.inference_mode()
def predict(batch):
    return model(batch)
