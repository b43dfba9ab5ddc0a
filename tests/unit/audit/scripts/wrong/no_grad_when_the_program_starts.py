"""Turned off once, in the thread that imports; a server's handlers run in others."""

import threading

import torch
from net import Net

torch.set_grad_enabled(False)
model = Net().eval()


def predict(batch):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(model(batch)))  # pitfall: no-grad-in-another-thread
    thread.start()
    thread.join()
    return answers[0]
