"""Written into the model, where eval() does not reach it."""

import torch
from net import Net
from torch.nn.functional import dropout


class Dropping(Net):
    def forward(self, x):
        x = self.features(x).mean((2, 3))
        return self.head(dropout(x, p=0.5, training=True))  # pitfall: functional-dropout


model = Dropping().eval()


def predict(batch):
    with torch.no_grad():
        return model(batch)
