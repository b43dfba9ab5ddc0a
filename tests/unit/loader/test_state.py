"""What torch's and torchvision's own loaders load is loaded; what they do not fill is told."""

import warnings
from collections import OrderedDict
from contextlib import nullcontext

import pytest
import safetensors.torch
import structlog
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from service.errors import ConfigurationError
from service.loader.checkpoint import read_content
from service.loader.load import load
from service.loader.state import fill
from tests.support.tiny import tiny, tiny_at

SAVED = ["weights.pth", "weights.safetensors"]


def block():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).eval()


def saved(path, content):
    """A state_dict in a file, read again."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(dict(content), path)
    else:
        torch.save(content, path)
    return read_content(path)


def refused(module, content, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        fill(module, content, tmp_path / "model.toml")
    return caught.value.problems


def assert_same(module, content):
    assert all(torch.equal(module.state_dict()[key], value) for key, value in content.items())


@pytest.mark.parametrize("name", SAVED)
def test_weights_of_an_old_torch_lack_num_batches_tracked_and_are_loaded(tmp_path, name):
    content = {key: value for key, value in block().state_dict().items() if "num_batches" not in key}
    module = block()
    fill(nn.Sequential(module), saved(tmp_path / name, {f"0.{key}": value for key, value in content.items()}), tmp_path)
    assert_same(module, content)


def test_the_versions_in_a_state_dict_decide_as_they_do_for_torch(tmp_path):
    new = block().state_dict()
    del new["1.num_batches_tracked"]
    [problem] = refused(block(), saved(tmp_path / "weights.pth", new), tmp_path)
    assert "missing from the weights: 1.num_batches_tracked;" in problem


class Tied(nn.Module):
    """One tensor under two names, and a view of a third one."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.part = nn.Parameter(self.one.bias.data[:2])


def test_a_tied_model_that_safetensors_saved_is_loaded(tmp_path):
    model, module = Tied(), Tied()
    safetensors.torch.save_model(model, str(tmp_path / "weights.safetensors"))
    content = read_content(tmp_path / "weights.safetensors")
    assert len(content) < len(model.state_dict())
    fill(module, content, tmp_path)
    assert_same(module, model.state_dict())
    assert module.other.weight is module.one.weight


@pytest.mark.parametrize("kept", ["one.weight", "other.weight"])
def test_whichever_name_of_a_tie_is_in_the_file_will_do(tmp_path, kept):
    content = {key: value for key, value in Tied().state_dict().items() if key == kept or "weight" not in key}
    module = Tied()
    fill(module, content, tmp_path)
    assert_same(module, content)


def test_a_tie_of_which_no_name_is_in_the_file_is_missing(tmp_path):
    content = {key: value for key, value in Tied().state_dict().items() if "weight" not in key}
    [problem] = refused(Tied(), content, tmp_path)
    assert "missing from the weights: one.weight, other.weight;" in problem


def test_a_view_of_which_only_the_part_is_in_the_file_leaves_the_whole_missing(tmp_path):
    content = {key: value for key, value in Tied().state_dict().items() if key != "one.bias"}
    [problem] = refused(Tied(), content, tmp_path)
    assert "missing from the weights: one.bias;" in problem


def test_equal_weights_that_are_not_tied_are_not_taken_for_a_tie(tmp_path):
    module = nn.Sequential(nn.LayerNorm(3), nn.LayerNorm(3))
    content = {key: value for key, value in module.state_dict().items() if key != "1.weight"}
    [problem] = refused(module, content, tmp_path)
    assert "missing from the weights: 1.weight;" in problem


@pytest.mark.parametrize("name", SAVED)
def test_densenets_files_have_old_names_and_are_loaded(tmp_path, name):
    def made():
        return torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3).eval()

    model, module = made(), nn.Sequential(made())
    names = {key: key for key in model.state_dict() if "num_batches" not in key}
    for part in ("norm", "conv"):
        names |= {
            key: key.replace(f".{part}{n}.", f".{part}.{n}.") for key in names for n in (1, 2) if f".{part}{n}." in key
        }
    old = {f"0.{names[key]}": model.state_dict()[key] for key in names}
    assert any(".norm.1." in key for key in old)
    fill(module, saved(tmp_path / name, old), tmp_path)
    assert_same(module[0], model.state_dict())


def test_a_module_that_has_densenets_old_names_itself_keeps_them(tmp_path):
    def made():
        return nn.ModuleDict({"denselayer1": nn.ModuleDict({"norm": nn.ModuleDict({"1": nn.LayerNorm(2)})})})

    module = made()
    content = {"denselayer1.norm.1.weight": torch.full((2,), 3.0), "denselayer1.norm.1.bias": torch.zeros(2)}
    fill(module, content, tmp_path)
    assert_same(module, content)


def test_weight_norm_of_old_is_loaded_into_the_parametrization_of_today(tmp_path):
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(3, 2))
    module = parametrizations.weight_norm(nn.Linear(3, 2))
    fill(module, saved(tmp_path / "weights.pth", old.state_dict()), tmp_path)
    assert torch.allclose(module.weight, old.weight)


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (torch.float64, "warning"),
        (torch.complex64, "warning"),
        (torch.float16, "info"),
        (torch.bfloat16, "info"),
        (torch.float32, None),
    ],
)
def test_weights_of_another_dtype_are_cast_as_torch_does_and_the_log_says_so(tmp_path, found, level):
    content = {key: value.to(found) for key, value in nn.Linear(3, 2).state_dict().items()}
    module, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.warns(UserWarning, match="imaginary") if found.is_complex else nullcontext():
        theirs.load_state_dict(content)
    with structlog.testing.capture_logs() as logs:
        fill(module, content, tmp_path / "model.toml")
    assert_same(module, theirs.state_dict())
    casts = [
        (entry["log_level"], entry["found"], entry["tensors"]) for entry in logs if entry["event"] == "weights cast"
    ]
    assert casts == ([(level, str(found), 2)] if level else [])


def test_a_scalar_that_is_saved_as_a_row_of_one_is_loaded(tmp_path):
    content = block().state_dict()
    content["1.num_batches_tracked"] = torch.tensor([7])
    module = block()
    fill(module, saved(tmp_path / "weights.pth", content), tmp_path)
    assert module[1].num_batches_tracked.item() == 7


def test_tensors_that_share_memory_in_a_file_are_loaded(tmp_path):
    whole = torch.randn(5, 3)
    module = nn.ParameterList([nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(3, 2))])
    content = {"0": whole[1:3], "1": whole[2:4].t()}
    fill(module, saved(tmp_path / "weights.pth", content), tmp_path)
    assert_same(module, content)


def test_the_order_of_keys_does_not_matter(tmp_path):
    content = OrderedDict(reversed(block().state_dict().items()))
    module = block()
    fill(module, saved(tmp_path / "weights.pth", content), tmp_path)
    assert_same(module, content)


def test_a_buffer_that_is_not_persistent_is_in_no_file(tmp_path):
    module = nn.Linear(2, 2)
    module.register_buffer("scale", torch.ones(2), persistent=False)
    fill(module, nn.Linear(2, 2).state_dict(), tmp_path)
    [problem] = refused(module, nn.Linear(2, 2).state_dict() | {"scale": torch.ones(2)}, tmp_path)
    assert "unexpected in the weights: scale;" in problem


def test_a_lazy_module_takes_its_shapes_from_the_file(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(2), nn.LazyBatchNorm1d()).eval()
    content = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.BatchNorm1d(2)).state_dict()
    fill(module, content, tmp_path)
    assert_same(module, content)
    assert module(torch.zeros(1, 3, 2, 2)).shape == (1, 2)


def test_a_lazy_module_that_the_file_lacks_is_missing(tmp_path):
    [problem] = refused(nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2)), {"1.weight": torch.zeros(2, 2)}, tmp_path)
    assert "missing from the weights: 0.weight, 0.bias, 1.bias;" in problem


def test_a_module_without_memory_takes_the_tensors_of_the_file(tmp_path):
    with torch.device("meta"):
        module = block()
    content = block().state_dict()
    fill(module, content, tmp_path)
    assert_same(module, content)


class Prefixed(nn.Sequential):
    """Loads what was saved under a prefix, and then works something out of it."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        told = super().load_state_dict(
            {key.removeprefix("module."): value for key, value in state_dict.items()}, strict
        )
        self.total = self[0].weight.sum()
        return told


class Careless(nn.Sequential):
    """Takes what it knows and says nothing of the rest; `.data` has no version that would move."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        for name, parameter in self.named_parameters():
            if name in state_dict:
                parameter.data.copy_(state_dict[name])


class Inner(nn.Module):
    """Hands on to a part of it, and asks it not to be strict."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def load_state_dict(self, state_dict, strict=True, assign=False):
        return self.net.load_state_dict(state_dict, strict=False)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_load_state_dict_of_the_operators_own_decides(tmp_path, prefix):
    content = nn.Sequential(nn.Linear(3, 2)).state_dict()
    module = Prefixed(nn.Linear(3, 2))
    fill(module, {prefix + key: value for key, value in content.items()}, tmp_path)
    assert_same(module, content)
    assert module.total == module[0].weight.sum()


def test_what_follows_an_own_load_state_dict_runs_for_tied_weights_too(tmp_path):
    module = Prefixed(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    fill(module, {"0.weight": torch.ones(3, 3), "0.bias": torch.ones(3), "1.bias": torch.ones(3)}, tmp_path)
    assert module.total == 9


@pytest.mark.parametrize("made", [lambda: Careless(nn.Linear(3, 2), nn.LayerNorm(2)), Inner], ids=["careless", "inner"])
def test_nothing_is_left_as_it_was_drawn_in_silence(tmp_path, made):
    content = {"0.weight": torch.randn(2, 3), "weight": torch.randn(2, 3)}
    [problem] = refused(made(), content, tmp_path)
    assert "missing from the weights: " in problem
    assert "bias" in problem
    assert "weight," not in problem.replace("1.weight", "")


def test_an_own_load_state_dict_may_fill_a_tensor_with_what_it_held_already(tmp_path):
    module = Careless(nn.LayerNorm(2))
    fill(module, {"0.weight": torch.ones(2), "0.bias": torch.zeros(2)}, tmp_path)


def test_everything_is_told_at_once_whoever_says_it(tmp_path):
    class Picky(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *more):
            more[-1].append("the weights are from another planet")
            super()._load_from_state_dict(state_dict, prefix, *more)

    content = {"weight": torch.zeros(2, 4), "offset": torch.zeros(2)}
    missing, unexpected, reshaped, other = refused(Picky(3, 2), content, tmp_path)
    assert "missing from the weights: bias;" in missing
    assert "unexpected in the weights: offset;" in unexpected
    assert "of another shape: weight is (2, 4), the architecture needs (2, 3);" in reshaped
    assert "cannot be loaded: the weights are from another planet;" in other


WITH_EXTRA_STATE = """\
import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.scale = nn.Linear(192, 5), {}

    def get_extra_state(self):
        return {"by": 1.0}

    def set_extra_state(self, state):
        self.scale = state

    def forward(self, x):
        return self.last(x.flatten(1)) * self.scale["by"]


def tiny():
    return Scaled()
"""


def with_extra_state(root, by):
    path = tiny_at(root, "file:weights.pth", code=WITH_EXTRA_STATE)
    state = {"last.weight": torch.ones(5, 192), "last.bias": torch.zeros(5), "_extra_state": {"by": by}}
    torch.save(state, path / "weights.pth")
    return load(tiny(root))


def test_extra_state_is_loaded_and_moves_the_version(tmp_path):
    one, other = with_extra_state(tmp_path / "one", 1.0), with_extra_state(tmp_path / "other", 2.0)
    assert (one.module.scale, other.module.scale) == ({"by": 1.0}, {"by": 2.0})
    assert one.seal == other.seal
    assert one.version != other.version
