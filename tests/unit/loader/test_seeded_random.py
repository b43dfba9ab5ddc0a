"""`random:SEED`: an untrained model that is the same for its seed, and whose answers tell inputs apart."""

import pytest
import torch

from service.errors import ConfigurationError
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.weights import build
from tests.support.models import SMALL, make_models
from tests.support.tiny import tiny

#: A network so deep that, as it is drawn, it says nearly the same of everything.
DEEP = """\
from torch import nn


def tiny():
    layers = [layer for _ in range(12) for layer in (nn.Linear(12, 12), nn.ReLU())]
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), *layers, nn.Linear(12, 5))
"""
CONVOLUTION_LAST = """\
from torch import nn


def tiny():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)
"""
AUXILIARY_HEAD = """\
from torch import nn


class Tiny(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(192, 5))
        self.auxiliary = nn.Linear(192, 5)

    def forward(self, x):
        return self[1](self[0](x))


def tiny():
    return Tiny()
"""


def answers(module, count=16, size=8):
    """Logits of different pictures, normalised as a card's default says."""
    generator = torch.Generator().manual_seed(count)
    pictures = torch.randint(0, 256, (count, 3, size, size), generator=generator).float()
    with torch.inference_mode():
        return module.eval()((pictures - 115) / 58)


def spread(logits):
    """How far the answers to different pictures lie apart, against 1 of a trained model's order of magnitude."""
    return logits.std(0).square().mean().sqrt().item()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    def made(seed):
        folder = make_models(tmp_path_factory.mktemp("models") / "m", one=SMALL.format(seed=seed))
        return build(find_models(folder)["one"])

    return made


def test_one_seed_gives_one_model(resnet):
    one, other = resnet(1).state_dict(), resnet(1).state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_another_seed_gives_other_weights_in_every_layer(tmp_path):
    one = build(tiny(tmp_path / "one", "random:1", code=DEEP))
    other = build(tiny(tmp_path / "other", "random:2", code=DEEP))
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    assert len(pairs) == 26
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_a_resnet_tells_pictures_apart(resnet):
    assert spread(answers(resnet(3), size=64)) > 0.5


@pytest.mark.parametrize("code", [DEEP, CONVOLUTION_LAST], ids=["deep", "a convolution last"])
@pytest.mark.parametrize("seed", range(5))
def test_a_model_of_ones_own_tells_pictures_apart(tmp_path, code, seed):
    assert 0.3 < spread(answers(build(tiny(tmp_path, f"random:{seed}", code=code)))) < 3


def test_without_the_last_layer_drawn_again_the_deep_one_would_not(tmp_path):
    module = build(tiny(tmp_path, code=DEEP))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module[-1].reset_parameters()
    assert spread(answers(module)) < 0.03


def test_the_last_layer_may_be_one_that_eval_leaves_out(tmp_path):
    assert spread(answers(build(tiny(tmp_path, code=AUXILIARY_HEAD)))) > 0.1


def test_a_model_without_any_layer_to_draw_is_left_as_it_is(tmp_path):
    code = "from torch import nn\n\n\ndef tiny():\n    return nn.Flatten()\n"
    assert load(tiny(tmp_path, code=code)).adapter.raw[0].shape == (3 * 8 * 8,)


def test_batch_norm_keeps_the_statistics_it_was_made_with(resnet):
    buffers = dict(resnet(1).named_buffers())
    assert torch.equal(buffers["bn1.running_mean"], torch.zeros(64))
    assert buffers["bn1.num_batches_tracked"] == 0


def test_torchs_own_random_state_is_as_it_was(tmp_path):
    before = torch.get_rng_state()
    build(tiny(tmp_path, "random:5"))
    assert torch.equal(torch.get_rng_state(), before)


def test_torchs_own_random_state_is_as_it_was_when_the_architecture_fails(tmp_path):
    folder = tiny(tmp_path, code="import torch\n\n\ndef tiny():\n    torch.rand(3)\n    raise ValueError\n")
    before = torch.get_rng_state()
    with pytest.raises(ConfigurationError):
        build(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_alone_decides_whatever_was_drawn_before(tmp_path):
    folder = tiny(tmp_path, "random:5", code=DEEP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        one = build(folder)
        torch.rand(7)
        other = build(folder)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_forward_that_fails_is_the_architectures_fault(tmp_path):
    folder = tiny(tmp_path, code="from torch import nn\n\n\ndef tiny():\n    return nn.Linear(7, 5)\n")
    with pytest.raises(ConfigurationError, match=r"architecture: forward of \(8, 3, 8, 8\) raised RuntimeError"):
        build(folder)
