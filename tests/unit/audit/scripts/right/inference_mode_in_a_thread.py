"""The mode is entered where the forward runs."""

from concurrent.futures import ThreadPoolExecutor

import torch
from net import Net

model = Net().eval()
pool = ThreadPoolExecutor(1)


@torch.inference_mode()
def forward(batch):
    return model(batch)


def predict(batch):
    with torch.no_grad():
        return pool.submit(forward, batch).result().numpy()
