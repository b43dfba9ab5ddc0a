"""OpenVINO computes in what the card says, keeps what it gave, and tells nobody of what it is given."""

import dataclasses
import importlib
import importlib.metadata

import openvino_telemetry
import pytest
import torch

from service.engine.model import ServedModel
from service.loader import openvino
from service.loader.artefact import artefact_key
from service.loader.compiled import CannotCompileError, export
from service.loader.load import load
from service.loader.tuning import Tuning
from tests.support.models import make_models
from tests.support.tiny import CLASSES, tiny

CPU = torch.device("cpu")
CODE = """\
from torch import nn


def tiny():
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(1024, 5))
"""


def served(root, *lines):
    folder = tiny(root, "random:1", *lines, code=CODE)
    model = ServedModel(load(folder), CPU)
    model.apply(Tuning("channels_last", 1))  # weights that are not contiguous
    return model


def built(model, root, threads=1):
    target = dataclasses.replace(model.target(), threads=threads)
    file = root / f"net{openvino.SUFFIX}"
    openvino.build(export(model.adapter, model.examples(2), target), file, target)
    return file, target


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return served(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The model's package for one thread, and for two."""
    return {threads: built(model, tmp_path_factory.mktemp("package"), threads) for threads in (1, 2)}


def compiled(files):
    return openvino.load(*files[1])


def in_pieces(files):
    return openvino.load_in_pieces(*files[2])


@pytest.mark.parametrize("load", [compiled, in_pieces])
def test_what_one_forward_gave_the_next_does_not_change(model, files, load):
    forward = load(files)
    (pixels,) = model.examples(4)
    with torch.inference_mode():
        (first,) = forward((pixels[:2],))
        kept = first.clone()
        (second,) = forward((pixels[2:],))
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)
    assert first.is_inference()


@pytest.mark.parametrize("load", [compiled, in_pieces])
def test_a_package_takes_up_to_the_cap_and_no_more(model, files, load):
    forward = load(files)
    (pixels,) = model.examples(model.cap + 1)
    for size in range(1, model.cap + 1):
        (scores,) = forward((pixels[:size],))
        assert scores.shape == (size, CLASSES)
    with pytest.raises(RuntimeError):
        forward((pixels,))


def test_cut_or_whole_each_example_gets_the_same_bits(model, files):
    whole, cut = compiled(files), in_pieces(files)
    (pixels,) = model.examples(model.cap)
    with torch.inference_mode():
        for size in range(1, model.cap + 1):
            assert torch.equal(cut((pixels[:size],))[0], whole((pixels[:size],))[0])


def test_two_batches_under_way_each_get_their_own(model, files):
    package = in_pieces(files)
    (pixels,) = model.examples(2 * model.cap)
    one, other = (pixels[: model.cap],), (pixels[model.cap :],)
    with torch.inference_mode():
        expected = package(one)[0], package(other)[0]
        assert package.overlaps_from == 2
        for _ in range(20):
            first, second = package.begin(one), package.begin(other)
            assert torch.equal(first()[0], expected[0])
            (lone,) = package((other[0][:1],))  # a probe of the guard, say
            third = package.begin(one)
            assert torch.equal(second()[0], expected[1])
            assert torch.equal(third()[0], expected[0])
            assert torch.equal(lone, expected[1][:1])


@pytest.mark.parametrize(
    ("size", "streams", "pieces"), [(1, 2, 1), (2, 2, 2), (3, 2, 3), (8, 2, 4), (32, 2, 16), (7, 8, 1), (8, 8, 8)]
)
def test_a_batch_is_cut_when_each_stream_gets_some_of_it(size, streams, pieces):
    assert openvino._pieces(size, streams) == pieces


@pytest.mark.parametrize("size", [6, 7])
def test_a_cap_that_leaves_a_piece_room_is_a_cap_all_the_same(tmp_path, size):
    model = served(tmp_path, "[batching]", f"max_batch_size = {size}")
    forward = openvino.load_in_pieces(*built(model, tmp_path, threads=2))
    (pixels,) = model.examples(size + 1)
    assert len(forward((pixels[:size],))[0]) == size
    with pytest.raises(RuntimeError):
        forward((pixels,))


def test_a_piece_that_fails_leaves_no_other_one_running(model, files, monkeypatch):
    """Else the next batch would find its requests busy."""
    forward = in_pieces(files)
    (pixels,) = model.examples(model.cap)
    library, made = importlib.import_module("openvino"), []

    class Failing(library.Tensor):
        def __init__(self, *given, **more):
            made.append(1)
            if len(made) == 4:
                raise MemoryError("no room for the last piece")
            super().__init__(*given, **more)

    with torch.inference_mode():
        (right,) = forward((pixels,))
        for _ in range(20):
            made.clear()
            with monkeypatch.context() as patch:
                patch.setattr(library, "Tensor", Failing)
                with pytest.raises(MemoryError):
                    forward((pixels,))
            assert torch.equal(forward((pixels,))[0], right)


def test_where_there_is_one_thread_nothing_is_cut(tmp_path, model):
    target = dataclasses.replace(model.target(), threads=1)
    with pytest.raises(CannotCompileError, match="one thread"):
        openvino.build_in_pieces(export(model.adapter, model.examples(2), target), tmp_path / "net", target)


@pytest.mark.parametrize("load", [compiled, in_pieces])
def test_what_comes_after_a_forward_has_one_thread(tmp_path, files, load):
    """torch's own would spin beside OpenVINO's for the same cores."""
    model = served(tmp_path)
    model.apply(Tuning("channels_last", 2))
    (pixels,) = model.examples(4)
    with torch.inference_mode():
        model.run_batch((pixels,))
        assert torch.get_num_threads() == 2
        with model.on_trial(load(files)):
            model.run_batch((pixels,))
            assert torch.get_num_threads() == 1
        model.run_batch((pixels,))
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_computes_in_what_the_card_says(tmp_path, dtype):
    """Left alone it takes bfloat16 wherever the processor has it, and is then further from eager in float32."""
    model = served(tmp_path, f'dtype = "{dtype}"')
    (pixels,) = model.examples(4)
    with torch.inference_mode():
        (eager,) = model.run_batch((pixels,))
        (found,) = openvino.load(*built(model, tmp_path))((pixels,))
    assert found.dtype == eager.dtype == getattr(torch, dtype)
    share = float((found - eager).abs().max() / eager.abs().max())
    assert share <= (1e-5 if dtype == "float32" else 0.05)


def test_nothing_is_told_to_its_makers(tmp_path, model, monkeypatch):
    told = []
    for name in ("start_session", "send_event"):
        monkeypatch.setattr(openvino_telemetry.Telemetry, name, lambda *words, **more: told.append(words))
    openvino.load(*built(model, tmp_path))
    assert told == []


def test_elsewhere_than_on_a_cpu_it_is_not_asked(model):
    target = dataclasses.replace(model.target(), device=torch.device("cuda"))
    with pytest.raises(CannotCompileError, match="CPUs only"):
        openvino.need(target)


def test_what_was_made_by_another_release_of_it_is_not_looked_at(monkeypatch):
    """Nor is a verdict that was given before it was installed."""

    def key():
        return artefact_key("v", "float32", (8, 3, 8, 8), CPU)

    here, version = key(), importlib.metadata.version

    def absent(name):
        if name == "openvino":
            raise importlib.metadata.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    without = key()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "openvino" else version(name))
    assert len({here, without, key()}) == 3


TWO_TOWERS = """\
import torch
from torch import nn


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.last = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, history, user):
        both = self.users(user)[:, None] + history
        return {"scores": self.last(both), "best": self.last(both).argmax(-1), "kept": history > 0}


def tiny():
    return Towers()
"""
TOWERS_CARD = """\
task = "tensor"
weights = "random:1"
architecture = "architecture:tiny"
dtype = "DTYPE"
[inputs.history]
dtype = "DTYPE"
shape = [4, 8]
[inputs.user]
dtype = "int64"
shape = []
range = [0, 9]
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["whole", "in pieces"])
def test_several_inputs_and_outputs_keep_their_order_and_dtypes(tmp_path, how, dtype):
    make_models(tmp_path, tiny=TOWERS_CARD.replace("DTYPE", dtype))
    (tmp_path / "tiny" / "architecture.py").write_text(TWO_TOWERS)
    model = ServedModel(load(tiny(tmp_path)), CPU)
    target = dataclasses.replace(model.target(), threads=2)
    program, file = export(model.adapter, model.examples(2), target), tmp_path / "package"
    if how == "whole":
        openvino.build(program, file, target)
        package = openvino.load(file, target)
    else:
        openvino.build_in_pieces(program, file, target)
        package = openvino.load_in_pieces(file, target)
    arrays = model.examples(model.cap)
    with torch.inference_mode():
        expected, found = model.run_batch(arrays), package(arrays)
    assert [output.dtype for output in found] == [getattr(torch, dtype), torch.int64, torch.bool]
    assert [output.shape for output in found] == [(8, 4, 3), (8, 4), (8, 4, 8)]
    assert torch.allclose(found[0], expected[0], rtol=0, atol=1e-5 if dtype == "float32" else 0.05)
    assert torch.equal(found[2], expected[2])
    picked = found[0].gather(-1, found[1][..., None])
    assert torch.equal(picked, found[0].amax(-1, keepdim=True))
