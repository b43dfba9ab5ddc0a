"""Grad mode belongs to a thread: the pool's worker has its own."""

from concurrent.futures import ThreadPoolExecutor

import torch
from net import Net

model = Net().eval()
pool = ThreadPoolExecutor(1)


def forward(batch):
    return model(batch)  # pitfall: no-grad-in-another-thread


def predict(batch):
    with torch.no_grad():
        return pool.submit(forward, batch).result()
