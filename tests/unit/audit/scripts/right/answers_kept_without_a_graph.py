"""A list that grows, by the answers alone."""

import torch
from net import Net

model = Net().eval()
answers = []


@torch.inference_mode()
def predict(batch):
    answers.append(model(batch))
    return answers[-1]
