"""Back to train mode for an epoch, and never out of it again."""

from net import Net

model = Net().eval()
model.train()
model.requires_grad_(False)


def predict(batch):
    scores = model(batch)  # pitfall: forgot-eval
    return scores.argmax(1)
