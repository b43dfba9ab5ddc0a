"""A model's files run as a package of their own: they import each other, and no other model's."""

import inspect
import os
import pickle
import subprocess
import sys
import textwrap

import pytest
import structlog
import torch

from service.errors import ConfigurationError
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.weights import build
from tests.support.tiny import CODE, tiny, tiny_at

#: A file beside the architecture.
BLOCKS = """\
from torch import nn


def pool():
    return nn.AvgPool2d(4)
"""
#: An architecture whose first layer comes from elsewhere.
FROM = """\
from torch import nn
{imports}

def tiny():
    {late}
    return nn.Sequential({call}, nn.Flatten(), nn.Linear(12, 5))
"""


def using(imports="", call="pool()", late="pass"):
    return FROM.format(imports=imports, call=call, late=late)


def folder(root, code, **files):
    """A tiny model with files beside its architecture; `__` in a name is a folder."""
    path = tiny_at(root, code=code)
    for name, content in files.items():
        file = path / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(content))
    return tiny(root)


def init(path, content=""):
    path.mkdir(exist_ok=True)
    (path / "__init__.py").write_text(content)


def refused(model):
    with pytest.raises(ConfigurationError) as caught:
        load(model)
    [problem] = caught.value.problems
    return problem


def modules_of_models():
    return {name for name in sys.modules if name.startswith("gradless_model_")}


IMPORTS = {
    "import": using("import blocks", "blocks.pool()"),
    "import as": using("import blocks as parts", "parts.pool()"),
    "from": using("from blocks import pool"),
    "star": using("from blocks import *"),
    "relative": using("from .blocks import pool"),
    "relative module": using("from . import blocks", "blocks.pool()"),
    "late": using(late="from blocks import pool"),
    "late relative": using(late="from .blocks import pool"),
    "import_module": using("import importlib", "importlib.import_module('blocks').pool()"),
    "from importlib": using("from importlib import import_module", "import_module('blocks').pool()"),
    "import_module, relative": using("import importlib", "importlib.import_module('.blocks', __package__).pool()"),
    "__import__": using(call="__import__('blocks').pool()"),
}


@pytest.mark.parametrize("code", IMPORTS.values(), ids=IMPORTS.keys())
def test_a_file_beside_the_architecture_is_imported(tmp_path, code):
    before = set(sys.modules)
    assert isinstance(load(folder(tmp_path, code, blocks=BLOCKS)).module[0], torch.nn.AvgPool2d)
    assert "blocks" not in set(sys.modules) - before


@pytest.mark.parametrize("code", IMPORTS.values(), ids=IMPORTS.keys())
def test_two_models_with_files_of_one_name_have_their_own(tmp_path, code):
    one = folder(tmp_path / "one", code, blocks=BLOCKS)
    other = folder(tmp_path / "other", code, blocks=BLOCKS.replace("Avg", "Max"))
    assert isinstance(load(one).module[0], torch.nn.AvgPool2d)
    assert isinstance(load(other).module[0], torch.nn.MaxPool2d)


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("import nets.deep", "nets.deep.pool()"),
        ("import nets.deep as deep", "deep.pool()"),
        ("from nets import deep", "deep.pool()"),
        ("from nets.deep import pool", "pool()"),
        ("from .nets.deep import pool", "pool()"),
        ("import nets.deep, nets.shallow", "nets.deep.pool()"),
    ],
)
@pytest.mark.parametrize("with_init", [True, False])
@pytest.mark.parametrize(
    "inside",
    ["from .parts import pool", "from ..blocks import pool", "from blocks import pool", "from nets.parts import pool"],
)
def test_packages_beside_the_architecture_are_imported(tmp_path, imports, call, with_init, inside):
    files = {"nets__deep": inside, "nets__parts": BLOCKS, "nets__shallow": ""}
    model = folder(tmp_path, using(imports, call), blocks=BLOCKS, **files)
    if with_init:
        init(model.path / "nets")
    assert isinstance(load(model).module[0], torch.nn.AvgPool2d)


def test_the_architecture_itself_may_be_a_package(tmp_path):
    path = tiny_at(tmp_path)
    (path / "architecture.py").unlink()
    init(path / "architecture", using("from .blocks import pool"))
    (path / "architecture" / "blocks.py").write_text(BLOCKS)
    assert isinstance(load(tiny(tmp_path)).module[0], torch.nn.AvgPool2d)


def test_the_folder_is_a_package_where_a_file_imports_relatively(tmp_path):
    model = folder(tmp_path, using("from . import pool"), __init__="", blocks=BLOCKS)
    init(model.path, "from .blocks import pool")
    assert isinstance(load(model).module[0], torch.nn.AvgPool2d)


def test_an_init_that_nobody_asks_for_is_not_run(tmp_path):
    model = folder(tmp_path, CODE)
    init(model.path, "raise RuntimeError")
    assert isinstance(load(model).module[0], torch.nn.AvgPool2d)


def test_files_are_read_from_the_architectures_folder(tmp_path):
    code = using("from pathlib import Path", "nn.AvgPool2d(int((Path(__file__).parent / 'size.txt').read_text()))")
    model = folder(tmp_path, code)
    (model.path / "size.txt").write_text("4")
    assert load(model).module[0].kernel_size == 4


# Names


MODERN = """\
from __future__ import annotations

import dataclasses
import logging
import pickle
import typing

from pydantic import BaseModel
from torch import nn


@dataclasses.dataclass
class Config:
    classes: int = 5
    later: typing.ClassVar[int] = 0


class Checked(BaseModel):
    config: Config = Config()


class Tiny(nn.Sequential):
    pass


def tiny():
    assert typing.get_type_hints(Config)["classes"] is int
    assert pickle.loads(pickle.dumps(Checked())) == Checked()
    logging.getLogger(__name__).debug("made")
    return Tiny(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, Config().classes))
"""


def test_what_looks_its_own_module_up_finds_it(tmp_path):
    module = load(folder(tmp_path, MODERN)).module
    assert inspect.getsource(type(module)) == "class Tiny(nn.Sequential):\n    pass\n"
    assert sys.modules[type(module).__module__].Tiny is type(module)
    assert torch.equal(pickle.loads(pickle.dumps(module))[2].weight, module[2].weight)


def test_two_loads_of_one_model_share_no_module(tmp_path):
    model = folder(tmp_path, MODERN)
    assert type(load(model).module) is not type(load(model).module)


def test_a_models_name_need_not_be_an_identifier(tmp_path):
    path = tiny_at(tmp_path, code=using("from .blocks import pool"), name="my.model-2")
    (path / "blocks.py").write_text(BLOCKS)
    assert isinstance(load(find_models(tmp_path)["my.model-2"]).module[0], torch.nn.AvgPool2d)


@pytest.mark.parametrize(
    "code",
    [
        "import blocks\nraise ValueError",
        "import blocks\nraise SystemExit",
        "from blocks import nothing",
        "import blocks",
    ],
)
def test_code_that_fails_leaves_no_module_behind(tmp_path, code):
    before = modules_of_models()
    refused(folder(tmp_path, code, blocks=BLOCKS))
    assert modules_of_models() == before


def test_weights_that_do_not_fit_leave_no_module_behind(tmp_path):
    path = tiny_at(tmp_path, "file:weights.pth")
    torch.save({}, path / "weights.pth")
    before = modules_of_models()
    with pytest.raises(ConfigurationError):
        load(tiny(tmp_path))
    assert modules_of_models() == before


# Whose name it is


@pytest.mark.parametrize("name", ["json", "torch", "numpy"])
def test_an_installed_module_comes_before_a_file_of_its_name_and_the_log_says_so(tmp_path, name):
    code = using(
        f"import {name}\nassert {name}.__file__ != __file__ and hasattr({name}, '__path__')", "nn.AvgPool2d(4)"
    )
    model = folder(tmp_path, code, **{name: "raise RuntimeError"})
    with structlog.testing.capture_logs() as logs:
        load(model)
    [entry] = [entry for entry in logs if entry["event"] == "file passed over"]
    assert entry["file"] == f"tiny/{name}.py"
    assert f"write `from . import {name}`" in entry["why"]


def test_a_file_of_an_installed_modules_name_is_imported_relatively(tmp_path):
    model = folder(tmp_path, using("import json\nfrom .json import pool"), json=BLOCKS)
    assert isinstance(load(model).module[0], torch.nn.AvgPool2d)


def test_a_file_in_the_working_directory_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "blocks.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = folder(tmp_path / "models", using("from blocks import pool"), blocks=BLOCKS)
    assert isinstance(load(model).module[0], torch.nn.AvgPool2d)


def test_the_working_directory_may_be_the_models_folder(tmp_path, monkeypatch):
    model = folder(tmp_path, using("from blocks import pool"), blocks=BLOCKS)
    monkeypatch.chdir(model.path)
    monkeypatch.syspath_prepend(model.path)
    load(model)
    assert "blocks" not in sys.modules


def test_a_package_called_service_beside_the_architecture_is_the_operators(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = folder(tmp_path, using("from service.blocks import pool"), service__blocks=BLOCKS)
    init(model.path / "service")
    assert isinstance(load(model).module[0], torch.nn.AvgPool2d)


@pytest.mark.parametrize("code", ["import service", "from service.blocks import pool", "import service.errors"])
def test_a_package_called_service_elsewhere_is_told_to_be_gradlesss_own(tmp_path, code):
    problem = refused(folder(tmp_path, code))
    assert "in this process service is Gradless's own package; put yours beside the card, or rename it" in problem
    assert "(architecture.py:1)" in problem


# What a version covers


def version(root, blocks=BLOCKS, code=IMPORTS["from"], **more):
    return load(folder(root, code, blocks=blocks, **more)).version


@pytest.mark.parametrize("name", IMPORTS.keys())
def test_the_version_changes_with_a_file_that_is_imported(tmp_path, name):
    one = version(tmp_path / "one", code=IMPORTS[name])
    assert one == version(tmp_path / "same", code=IMPORTS[name])
    assert one != version(tmp_path / "other", BLOCKS + "# changed\n", code=IMPORTS[name])


def test_the_version_changes_with_a_file_that_is_imported_only_now_and_then(tmp_path):
    def of(root, rare):
        code = using("from blocks import pool").replace("pass", "if False:\n        import rare")
        return version(root, code=code, rare=rare)

    assert of(tmp_path / "one", "a = 1") != of(tmp_path / "other", "a = 2")


def test_the_version_changes_with_a_file_that_another_one_imports(tmp_path):
    def of(root, parts):
        return version(root, "from nets.parts import pool", nets__parts=parts)

    assert of(tmp_path / "one", BLOCKS) != of(tmp_path / "other", BLOCKS.replace("4", "2 + 2"))


READ = {
    "read_text": "int((Path(__file__).parent / 'data' / 'size.json').read_text())",
    "open": "json.load(open(os.path.dirname(__file__) + '/data/size.json', 'rb'))",
    "os.open": "int(os.read(os.open(Path(__file__).parent / 'data' / '..' / 'data' / 'size.json', os.O_RDONLY), 9))",
    "resources": "int(importlib.resources.files(__package__).joinpath('data/size.json').read_text())",
    "resources of a folder": "int(importlib.resources.files(f'{__package__}.data').joinpath('size.json').read_text())",
}


@pytest.mark.parametrize("way", READ.values(), ids=READ.keys())
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_version_changes_with_a_file_that_the_code_reads(tmp_path, way):
    def of(root, text):
        imports = "import importlib.resources, json, os\nfrom pathlib import Path"
        model = folder(root, using(imports, f"nn.AvgPool2d({way})"))
        (model.path / "data").mkdir()
        (model.path / "data" / "size.json").write_text(text)
        return load(model).version

    assert of(tmp_path / "one", "4") == of(tmp_path / "same", "4") != of(tmp_path / "other", " 4")


def test_a_file_that_is_read_by_a_relative_name_is_known(tmp_path, monkeypatch):
    def of(root, text):
        model = folder(root, using(call="nn.AvgPool2d(int(open('size.txt').read()))"))
        (model.path / "size.txt").write_text(text)
        monkeypatch.chdir(model.path)
        return load(model).version

    with pytest.warns(ResourceWarning):
        assert of(tmp_path / "one", "4") != of(tmp_path / "other", " 4")


def test_what_the_loader_itself_reads_is_no_file_of_the_code(tmp_path):
    """The card, the weights and the labels are in a version by what they say, not by how they are written."""

    def of(root, more):
        path = tiny_at(root, "file:weights.pth", 'labels = "file:labels.txt"')
        torch.save({"2.weight": torch.ones(5, 12), "2.bias": torch.zeros(5)} | more, path / "weights.pth")
        (path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
        (path / "model.toml").write_text(f"# {more}\n" + (path / "model.toml").read_text())
        state = torch.load(path / "weights.pth")
        torch.save({"state_dict": state} if not more else state, path / "weights.pth")
        return load(tiny(root)).version

    assert of(tmp_path / "one", {}) == of(tmp_path / "other", {"2.bias": torch.zeros(5).double()})


def test_a_file_that_nobody_imports_is_no_part_of_the_version(tmp_path):
    alone = load(folder(tmp_path / "one", CODE)).version
    assert alone == load(folder(tmp_path / "other", CODE, train="import blocks", blocks=BLOCKS)).version


def test_an_edit_is_seen_by_the_next_load_even_within_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    model = folder(tmp_path, IMPORTS["from"], blocks=BLOCKS)
    first = load(model)
    blocks = model.path / "blocks.py"
    written = blocks.stat()
    blocks.write_text(BLOCKS.replace("Avg", "Max"))
    os.utime(blocks, ns=(written.st_atime_ns, written.st_mtime_ns))
    second = load(model)
    assert isinstance(second.module[0], torch.nn.MaxPool2d)
    assert first.version != second.version


LATE = """\
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 5)

    def forward(self, x):
        if len(x) != 2:
            return self.last(nn.functional.avg_pool2d(x, 4).flatten(1))
        {late}
        return self.last(pool()(x).flatten(1))


def tiny():
    return Tiny()
"""


def test_what_is_imported_in_a_late_forward_is_what_the_version_names(tmp_path):
    model = folder(tmp_path, LATE.format(late="from blocks import pool"), blocks=BLOCKS)
    module = load(model).module
    (model.path / "blocks.py").write_text("raise RuntimeError('edited')")
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_what_no_version_names_is_not_imported_late(tmp_path):
    late = "import importlib; pool = importlib.import_module('blo' + 'cks').pool"
    model = folder(tmp_path, LATE.format(late=late), blocks=BLOCKS)
    module = load(model).module
    with pytest.raises(ImportError, match=r"blocks\.py was not imported before the model's version was named"):
        module(torch.zeros(2, 3, 8, 8))


# What is told


@pytest.mark.parametrize(
    ("code", "files", "words"),
    [
        ("import blocks", {"blocks": "import nobody_has_it"}, "(blocks.py:1); install it: nobody_has_it is in no"),
        ("import blocks", {"blocks": "\ndef f(:"}, "raised SyntaxError: invalid syntax (blocks.py:2)"),
        ("from .bloks import pool", {}, "No module named '.bloks' (architecture.py:1); put bloks.py beside the file"),
        ("import nets.deep", {"nets__shallow": ""}, "No module named '.nets.deep' (architecture.py:1); put deep.py"),
        ("from blocks import pol", {"blocks": BLOCKS}, "cannot import name 'pol' from '.blocks'"),
        (
            "from nets.deep import go\ngo()",
            {"nets__deep": "def go():\n    1 / 0"},
            "by zero (nets/deep.py:2); fix the code",
        ),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_its_line(tmp_path, code, files, words):
    assert words in refused(folder(tmp_path, code, **files))


def test_the_line_of_a_forward_that_fails_is_told(tmp_path):
    code = LATE.format(late="pass").replace("if len(x) != 2:", "[][1]\n        if 0:")
    assert "raised IndexError: list index out of range (architecture.py:10)" in refused(folder(tmp_path, code))


# What else runs code


COMPILED = """\
import blocks
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 5)

    def forward(self, x):
        return self.last(blocks.pooled(x).flatten(1))


def tiny():
    return Tiny()
"""
POOLED = """\
import torch


def pooled(x: torch.Tensor):
    return torch.nn.functional.avg_pool2d(x, 4)
"""


def test_compilers_see_through_the_folders_imports(tmp_path):
    """In a process of its own: what is compiled stays with a process."""
    folder(tmp_path, COMPILED, blocks=POOLED)
    script = f"""
    import pathlib, warnings
    import torch
    from service.loader.repository import find_models
    from service.loader.load import load
    x = torch.randn(2, 3, 8, 8)
    warnings.simplefilter("ignore")
    for compiled in (
        lambda module: torch.compile(module, backend="eager"),
        lambda module: torch.jit.script(module),
        lambda module: torch.export.export(module, (x,)).module(),
    ):
        module = load(find_models(pathlib.Path({str(tmp_path)!r}))["tiny"]).module
        print(torch.allclose(compiled(module)(x), module(x)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n" * 3, done.stderr


def test_a_module_that_was_only_built_may_import_late(tmp_path):
    late = "import importlib; pool = importlib.import_module('blo' + 'cks').pool"
    module = build(folder(tmp_path, LATE.format(late=late), blocks=BLOCKS))
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
