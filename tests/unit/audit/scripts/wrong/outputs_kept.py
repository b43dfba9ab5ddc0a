"""For a report at the end of the day: each answer holds all activations of its forward."""

from net import Net

model = Net().eval()
answers = []


def predict(batch):
    scores = model(batch)
    answers.append(scores)  # pitfall: outputs-kept-with-graph
    return scores
