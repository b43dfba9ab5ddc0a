"""A package is kept only if it gives eager's answers and wins; else the verdict says why there is none."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from torch._inductor import config

from service.compiler import compile as compiling
from service.compiler.compile import Place, compile_model
from service.engine.cache_keys import package_key
from service.engine.model import ServedModel
from service.engine.package import use_package
from service.loader.compiled import CannotCompileError, Package, bits, export
from service.loader.compilers import COMPILERS, load_package
from service.loader.load import load
from service.loader.packages import Packages, RefusedPackageError
from service.loader.proof import prove
from service.loader.repository import find_models
from service.loader.tuning import Tuning
from tests.support.tiny import tiny, tiny_at

CPU = torch.device("cpu")
INDUCTOR = [compiler for compiler in COMPILERS if compiler.suffix == ".pt2"]
#: A C++ compiler takes ten seconds a package, so `make test` builds one with it, for all tests here.
WITH_AND_WITHOUT_CPP = pytest.mark.parametrize(
    "compilers",
    [
        pytest.param([compiler for compiler in COMPILERS if compiler not in INDUCTOR], id="openvino"),
        pytest.param(COMPILERS, id="all", marks=pytest.mark.full),
    ],
)
CODE = """\
import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8{norm})
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.norm(self.first(x))).mean((2, 3))
        {line}
        return self.last(x)


def tiny():
    return Net()
"""


def net(root, line="", norm="", *lines):
    return tiny(root, "random:1", *lines, code=CODE.format(line=line, norm=norm))


@pytest.fixture(scope="module", autouse=True)
def inductor_cache(tmp_path_factory):
    """Where AOTInductor keeps things for these tests; it tries no vector unit that the processor tells of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        patch.setattr(config.cpp, "vec_isa_ok", True)
        yield


@pytest.fixture
def always_worth_it(monkeypatch):
    """A model so small has little to win."""
    monkeypatch.setattr(compiling, "WORTH_IT", 1000.0)


@pytest.fixture(scope="module")
def one_package(tmp_path_factory):
    """A package of the net, really built, for two threads."""
    folder = net(tmp_path_factory.mktemp("models"))
    model = ServedModel(load(folder), CPU)
    file = tmp_path_factory.mktemp("package") / "net.pt2"
    target = dataclasses.replace(model.target(), threads=2)
    INDUCTOR[0].build(export(model.adapter, model.examples(2), target), file, target)
    return file


@pytest.fixture
def built(one_package, monkeypatch):
    """In place of building the same once more: whether each was to be autotuned."""
    asked = []

    def copying(compiler):
        def copy(program, file, target):
            asked.append(compiler.thorough)
            shutil.copy(one_package, file)

        return dataclasses.replace(compiler, build=copy)

    monkeypatch.setattr(compiling, "COMPILERS", [copying(compiler) for compiler in INDUCTOR])
    return asked


@pytest.fixture
def no_openvino(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "openvino" else found(name))


def judge(folder, cache, **more):
    return compile_model(folder, Place(CPU, 1, cache), {}, **more).verdict


@pytest.mark.parametrize("compiler", [c for c in COMPILERS if not c.thorough], ids=lambda compiler: compiler.name)
def test_a_package_answers_as_eager_does_at_every_size_and_passes_the_proof(
    tmp_path, always_worth_it, monkeypatch, compiler, request
):
    if compiler in INDUCTOR:
        request.getfixturevalue("built")
        [compiler, _] = compiling.COMPILERS
    monkeypatch.setattr(compiling, "COMPILERS", [compiler])
    folder = net(tmp_path)
    in_two = {load(folder).version: Tuning("contiguous_format", 2)}
    verdict = compile_model(folder, Place(CPU, 2, tmp_path / "cache"), in_two).verdict
    assert verdict.state == "compiled"
    assert 0 <= verdict.difference <= 1e-5
    assert verdict.package.endswith(compiler.suffix)
    assert compiler.name in {candidate.name for candidate in verdict.candidates}
    assert all(list(candidate.seconds) == [1, 2, 4, 8] for candidate in verdict.candidates)

    model = ServedModel(load(folder), CPU)
    eager = ServedModel(load(folder), CPU)
    model.apply(verdict.tuning)
    package = load_package(Packages(tmp_path / "cache").open(verdict), model.target())
    arrays = model.examples(16)
    with torch.inference_mode():
        model.run_package(package, verdict.sha256)
        assert bits(model.probe()) == verdict.probe
        for size in model.sizes:
            batch = tuple(array[:size] for array in arrays)
            torch.testing.assert_close(model.run_batch(batch), eager.run_batch(batch))
        report = prove(model.run_batch, model.module, arrays, model.sizes)
    assert report.passed, report.refusal
    assert not report.inconclusive


@WITH_AND_WITHOUT_CPP
def test_a_package_of_a_grey_model_that_sees_a_rectangle_answers_as_eager_does(
    tmp_path, always_worth_it, monkeypatch, compilers
):
    monkeypatch.setattr(compiling, "COMPILERS", compilers)
    tiny_at(tmp_path, code=CODE.format(line="", norm="").replace("Conv2d(3,", "Conv2d(1,"))
    card = tmp_path / "tiny" / "model.toml"
    lines = "resize = [8, 12]\nmean = [127]\nstd = [64]\n"
    card.write_text(card.read_text().replace("resize = 8\ncrop = 8\n", lines))
    folder = find_models(tmp_path)["tiny"]
    verdict = compile_model(folder, Place(CPU, 2, tmp_path / "cache"), {}).verdict
    assert verdict.state == "compiled"
    assert verdict.difference <= 1e-5
    model = ServedModel(load(folder), CPU)
    photographs = model.adapter.preparation.real_examples(8)
    assert [array.shape for array in photographs] == [(8, 1, 8, 12)]
    with torch.inference_mode():
        eager = model.run_batch(photographs)
        model.run_package(load_package(Packages(tmp_path / "cache").open(verdict), model.target()), verdict.sha256)
        torch.testing.assert_close(model.run_batch(photographs), eager)


def test_a_verdict_that_is_there_is_not_made_again_unless_asked(tmp_path, always_worth_it, built):
    folder, cache = net(tmp_path), tmp_path / "cache"
    first = judge(folder, cache)
    assert built == [False]
    assert judge(folder, cache) == first
    assert built == [False]
    thorough = judge(folder, cache, thorough=True)
    assert INDUCTOR[1].name in {candidate.name for candidate in thorough.candidates}
    assert built == [False, False, True]
    assert judge(folder, cache, thorough=True) == thorough
    judge(folder, cache, anew=True)
    assert built == [False, False, True, False]


def test_a_package_that_wins_nothing_is_not_kept(tmp_path, built, monkeypatch):
    monkeypatch.setattr(compiling, "WORTH_IT", 0.0)
    verdict = judge(net(tmp_path), tmp_path / "cache")
    assert verdict.state == "slower"
    assert verdict.package == ""
    assert not list((tmp_path / "cache").rglob("*.pt2"))


def test_a_package_that_gives_other_answers_is_not_kept(tmp_path, built, monkeypatch):
    def wrong(file, target):
        right = load_package(file, target)
        return dataclasses.replace(right, forward=lambda arrays: tuple(output * 1.001 for output in right(arrays)))

    [compiler, _] = compiling.COMPILERS
    monkeypatch.setattr(compiling, "COMPILERS", [dataclasses.replace(compiler, load=wrong)])
    verdict = judge(net(tmp_path), tmp_path / "cache")
    assert verdict.state == "differs"
    assert "allowed" in verdict.detail
    assert not list((tmp_path / "cache").rglob("*.pt2"))


@pytest.mark.parametrize(
    ("line", "norm", "words"),
    [
        ("x = functional.dropout(x, 0.5)", "", "draws random numbers"),
        ("x = x + torch.rand_like(x)", "", "draws random numbers"),
        ("", ", track_running_stats=False", "in train mode"),
        ("x = x if x.sum() > 0 else -x", "", "torch.export"),
        ("self.norm.running_mean.add_(1)", "", "forward writes to"),
    ],
    ids=["dropout that stays on", "random numbers", "BatchNorm over the batch", "a branch on data", "a write"],
)
def test_what_cannot_be_exported_as_a_pure_function_says_why(tmp_path, line, norm, words):
    verdict = judge(net(tmp_path, line, norm), tmp_path / "cache")
    assert verdict.state == "not-exportable"
    assert words in verdict.detail
    assert judge(net(tmp_path, line, norm), tmp_path / "cache") == verdict  # and is not tried again


@pytest.mark.parametrize(
    "line",
    [
        "x = functional.dropout(x, 0.5, self.training)",
        "x = functional.dropout(x, 0.5, self.training, inplace=True)",
        "x = functional.instance_norm(x[:, :, None].expand(-1, -1, 4))[..., 0]",
        "x = x.clone().add_(1)",
    ],
    ids=["dropout in eval mode", "the same in place", "a norm over each example", "a write to what it made itself"],
)
def test_what_only_looks_impure_is_exported(tmp_path, line):
    folder = net(tmp_path, line)
    model = ServedModel(load(folder), CPU)
    export(model.adapter, model.examples(2), model.target())


def test_without_any_compiler_nothing_is_written(tmp_path, monkeypatch, no_openvino):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    verdict = judge(net(tmp_path), tmp_path / "cache")
    assert verdict.state == "no-compiler"
    assert "g++" in verdict.detail
    assert "gradless[openvino]" in verdict.detail
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_openvino_needs_no_other_compiler(tmp_path, monkeypatch, always_worth_it):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    verdict = judge(net(tmp_path), tmp_path / "cache")
    assert verdict.state == "compiled"
    assert verdict.package.endswith(".openvino")


def refusing(compiler):
    def refuse(program, file, target):
        raise CannotCompileError("failed", "it has no such operator")

    return dataclasses.replace(compiler, build=refuse)


def test_who_refuses_leaves_it_to_the_others_and_is_told_of(tmp_path, monkeypatch, built, always_worth_it):
    monkeypatch.setattr(compiling, "COMPILERS", [refusing(COMPILERS[0]), *compiling.COMPILERS])
    verdict = judge(net(tmp_path), tmp_path / "cache")
    assert verdict.state == "compiled"
    assert verdict.package.endswith(".pt2")
    assert "it has no such operator" in verdict.detail


def failing(words):
    def fail(*anything):
        raise RuntimeError(words)

    return fail


@pytest.mark.parametrize(
    "changes",
    [
        {"build": failing("no such symbol")},
        {"load": failing("no such symbol")},
        {"load": lambda *_: Package(failing("no such symbol"), 1)},
    ],
    ids=["when it builds", "when it loads", "in its forward"],
)
def test_whoever_fails_unexpectedly_leaves_it_to_the_others_too(tmp_path, monkeypatch, built, always_worth_it, changes):
    copying = compiling.COMPILERS[0]
    faulty = dataclasses.replace(COMPILERS[0], name="faulty", **({"build": copying.build} | changes))
    monkeypatch.setattr(compiling, "COMPILERS", [faulty, copying])
    verdict = judge(net(tmp_path), tmp_path / "cache")
    assert verdict.state == "compiled"
    assert verdict.package.endswith(".pt2")
    assert "faulty: RuntimeError: no such" in verdict.detail


def test_who_was_not_there_is_asked_when_it_is(tmp_path, monkeypatch, built, always_worth_it):
    def absent(target):
        raise CannotCompileError("no-compiler", "it is not installed")

    first, second = compiling.COMPILERS
    second = dataclasses.replace(second, thorough=False)
    monkeypatch.setattr(compiling, "COMPILERS", [first, dataclasses.replace(second, need=absent)])
    folder, cache = net(tmp_path), tmp_path / "cache"
    alone = judge(folder, cache)
    assert alone.compilers == [first.name]
    assert "it is not installed" in alone.detail
    assert judge(folder, cache) == alone
    monkeypatch.setattr(compiling, "COMPILERS", [first, second])
    both = judge(folder, cache)
    assert both.compilers == [first.name, second.name]
    assert judge(folder, cache) == both
    monkeypatch.setattr(compiling, "COMPILERS", [first])
    assert judge(folder, cache) == both


def test_whose_package_was_condemned_is_not_asked_again(tmp_path, built, always_worth_it):
    folder, cache = net(tmp_path), tmp_path / "cache"
    key = package_key(ServedModel(load(folder), CPU), 1)
    condemned = judge(folder, cache).condemned("it fails the proof")
    Packages(cache).condemn(key, condemned)
    assert judge(folder, cache) == condemned
    assert built == [False]


def test_a_package_runs_with_the_threads_that_it_was_measured_with(tmp_path, monkeypatch, always_worth_it, built):
    """Whatever `gradless bench --tune` has found out since."""
    import service.engine.package as serving

    folder, cache = net(tmp_path), tmp_path / "cache"
    verdict = judge(folder, cache)
    model = ServedModel(load(folder), CPU)
    model.apply(Tuning("contiguous_format", verdict.tuning.threads + 1))
    seen = []
    monkeypatch.setattr(serving, "load_package", lambda *asked: seen.append(asked[1].threads) or load_package(*asked))
    with torch.inference_mode():
        use_package(model, Packages(cache), package_key(model, 1), verdict)
    assert seen == [verdict.tuning.threads]


def test_when_all_refuse_eager_stays_and_the_verdict_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "COMPILERS", [refusing(COMPILERS[0])])
    verdict = judge(net(tmp_path), tmp_path / "cache")
    assert verdict.state == "failed"
    assert verdict.detail == "it has no such operator"


def test_a_cache_that_others_can_write_is_not_used(tmp_path):
    (tmp_path / "cache" / "compiled").mkdir(parents=True)
    (tmp_path / "cache" / "compiled").chmod(0o777)
    assert judge(net(tmp_path), tmp_path / "cache").state == "unsafe-cache"


def test_a_card_that_says_eager_is_obeyed(tmp_path):
    folder = net(tmp_path, "", "", 'optimize = "eager"')
    assert judge(folder, tmp_path / "cache").state == "off"
    assert not Path(tmp_path / "cache").exists()


@WITH_AND_WITHOUT_CPP
def test_a_model_that_runs_alone_is_compiled_for_one_example(tmp_path, always_worth_it, monkeypatch, compilers):
    monkeypatch.setattr(compiling, "COMPILERS", compilers)
    folder = net(tmp_path)
    with (folder.path / "model.toml").open("a") as card:
        card.write("[batching]\nmax_batch_size = 1\n")
    [folder] = find_models(tmp_path).values()
    verdict = judge(folder, tmp_path / "cache")
    assert verdict.state == "compiled"
    assert all(list(candidate.seconds) == [1] for candidate in verdict.candidates)


@pytest.mark.parametrize("optimize", ["auto", "eager"])
def test_how_a_model_is_optimised_is_no_part_of_its_version(tmp_path, optimize):
    plain = load(net(tmp_path / "plain")).version
    assert load(net(tmp_path / optimize, "", "", f'optimize = "{optimize}"')).version == plain


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_what_a_model_computes_is_a_part_of_its_version(tmp_path, dtype):
    plain = load(net(tmp_path / "plain")).version
    loaded = load(net(tmp_path / dtype, "", "", f'dtype = "{dtype}"'))
    assert loaded.version != plain
    assert {p.dtype for p in loaded.module.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_proof_says_how_far_another_dtype_is_from_float32(tmp_path, dtype):
    folder = net(tmp_path, "", "", f'dtype = "{dtype}"')
    model = ServedModel(load(folder), CPU)
    with torch.inference_mode():
        report = model.check(model.sizes)
        assert [output.dtype for output in model.run_batch(model.examples(1))] == [getattr(torch, dtype)]
    assert report.passed, report.refusal
    assert report.precision.dtype == dtype
    assert 0 < report.precision.probability_difference < 0.05
    assert report.precision.same_classes == report.precision.inputs


def test_in_float32_there_is_nothing_to_compare(tmp_path):
    folder = net(tmp_path)
    model = ServedModel(load(folder), CPU)
    with torch.inference_mode():
        assert model.check([1]).precision is None


def test_a_package_that_is_not_what_eager_is_now_is_refused(tmp_path, always_worth_it, built):
    folder, cache = net(tmp_path), tmp_path / "cache"
    verdict = judge(folder, cache)
    model = ServedModel(load(folder), CPU)
    key = package_key(model, 1)
    with torch.inference_mode():
        use_package(model, Packages(cache), key, verdict)
    changed = ServedModel(load(folder), CPU)
    with torch.no_grad():
        changed.module.last.bias.add_(1)  # as if something that the architecture imports had changed
    with torch.inference_mode(), pytest.raises(RefusedPackageError, match="what eager answers now"):
        use_package(changed, Packages(cache), key, verdict)


def test_a_model_that_may_not_be_repeatable_is_not_compiled(tmp_path):
    folder = net(tmp_path)
    with (folder.path / "model.toml").open("a") as card:
        card.write('[proof]\nwaive = { repeatable = "it draws" }\n')
    [folder] = find_models(tmp_path).values()
    assert judge(folder, tmp_path / "cache").state == "off"
