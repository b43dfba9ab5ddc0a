"""The operator that scores come from is found behind views and copies, in either mode, and looking changes nothing."""

import pytest
import torch
import torchvision
from torch import nn

from service.loader.last_operator import end_of

LAYER = nn.Linear(4, 3)
ENDS = {
    "the layer itself": (lambda scores: scores, "linear"),
    "a view": (lambda scores: scores.unsqueeze(2).squeeze(2), "linear"),
    "a copy": (lambda scores: scores.clone(), "linear"),
    "another dtype": (lambda scores: scores.bfloat16(), "linear"),
    "a temperature": (lambda scores: scores / 2.5, "linear"),
    "a sum with what has a limit": (lambda scores: scores + scores.sigmoid(), "linear"),
    "two heads": (lambda scores: torch.cat([scores, 2 * scores], 1), "linear"),
    "a mean of logits": (lambda scores: scores.unsqueeze(2).mean(2), "linear"),
    "a mean behind a ReLU": (lambda scores: scores.relu().unsqueeze(2).mean(2), "pooled"),
    "softmax": (lambda scores: scores.softmax(1), "other"),
    "log_softmax": (lambda scores: scores.log_softmax(1), "other"),
    "sigmoid": (lambda scores: scores.sigmoid(), "other"),
    "sigmoid in place": (lambda scores: scores.sigmoid_(), "other"),
    "a view of a sigmoid in place": (lambda scores: scores.sigmoid_().view(-1).view(2, 3), "other"),
    "a clamp": (lambda scores: scores.clamp(0, 1), "other"),
    "a copy of a sigmoid": (lambda scores: scores.sigmoid().clone(), "other"),
    "shares of the sum": (lambda scores: scores / scores.sum(1, keepdim=True), "other"),
    "two softmaxes": (lambda scores: (scores.softmax(1) + scores.softmax(1)) / 2, "other"),
    "a sigmoid beside logits": (lambda scores: torch.cat([scores, scores.sigmoid()], 1), "other"),
    "a relu in place": (lambda scores: scores.relu_(), "other"),
}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("name", ENDS)
def test_an_end_is_known(name, mode):
    end, expected = ENDS[name]
    x = torch.rand(2, 4)
    with mode():
        output, found = end_of(lambda: end(LAYER(x)), lambda output: output)
        assert found == expected
        assert torch.equal(output, end(LAYER(x)))


def test_scores_are_picked_from_what_a_forward_gives():
    x = torch.rand(2, 4)
    with torch.inference_mode():
        assert (
            end_of(lambda: {"logits": LAYER(x), "probabilities": LAYER(x).sigmoid()}, lambda o: o["logits"])[1]
            == "linear"
        )
        assert end_of(lambda: "no tensor", lambda output: output) == ("no tensor", "other")


@pytest.mark.parametrize(
    ("name", "expected"), [("resnet18", "linear"), ("squeezenet1_1", "pooled"), ("mobilenet_v3_small", "linear")]
)
def test_torchvisions_models_end_as_they_are_written(name, expected):
    model = torchvision.models.get_model(name).eval()
    with torch.inference_mode():
        assert end_of(lambda: model(torch.rand(1, 3, 64, 64)), lambda output: output)[1] == expected
