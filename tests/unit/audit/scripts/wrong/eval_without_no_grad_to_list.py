"""What is returned shows nothing of the graph that was built for it."""

from net import Net

model = Net().eval()


def predict(batch):
    scores = model(batch)  # pitfall: gradients-left-on
    return scores.argmax(1).tolist()
