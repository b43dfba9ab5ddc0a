"""`architecture = "package.module:factory"`: from the folder, else from what is installed."""

import sys

import pytest

from service.errors import ConfigurationError
from service.loader.load import load
from service.loader.repository import find_models
from tests.support.models import make_models
from tests.support.tiny import CODE, INPUT


def of(root, architecture, **files):
    """A tiny model of this architecture, with files beside its card."""
    make_models(root, tiny=f'weights = "random:1"\narchitecture = "{architecture}"\n{INPUT}')
    for name, content in files.items():
        file = root / "tiny" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    return find_models(root)["tiny"]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A place on Python's path, with a package that is forgotten in the end."""
    place = tmp_path / "site"
    package = place / "package_of_nets"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "blocks.py").write_text("from torch import nn\n\n\ndef pool():\n    return nn.AvgPool2d(4)\n")
    (package / "nets.py").write_text(
        CODE.replace("nn.AvgPool2d(4)", "pool()").replace("\n\n\ndef", "\n\nfrom .blocks import pool\n\n\ndef")
    )
    monkeypatch.syspath_prepend(place)
    yield place
    forget()


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] in ("package_of_nets", "module_of_nets")]:
        del sys.modules[name]


def fault(*arguments, **files):
    with pytest.raises(ConfigurationError) as caught:
        load(of(*arguments, **files))
    [problem] = caught.value.problems
    return problem.partition("model.toml: ")[2]


@pytest.mark.usefixtures("site")
def test_an_installed_module_makes_the_model(tmp_path):
    assert load(of(tmp_path / "models", "package_of_nets.nets:tiny")).adapter.raw[0].shape == (5,)


def test_a_module_in_a_package_of_the_folder_makes_the_model(tmp_path):
    before = set(sys.modules)
    deep = CODE.replace("import nn", "import nn\nfrom nets import parts")
    files = {"nets/__init__": "", "nets/deep": deep, "nets/parts": ""}
    assert load(of(tmp_path, "nets.deep:tiny", **files)).adapter.raw[0].shape == (5,)
    assert not {"nets", "nets.deep"} & (set(sys.modules) - before)


def test_what_a_packages_init_may_import_late_is_covered_by_the_version(tmp_path):
    def version(root, rare):
        init = "def later():\n    from . import rare\n"
        return load(of(root, "nets.deep:tiny", **{"nets/__init__": init, "nets/deep": CODE, "nets/rare": rare})).version

    one = version(tmp_path / "one", "a = 1")
    assert one == version(tmp_path / "same", "a = 1")
    assert one != version(tmp_path / "other", "a = 2")


@pytest.mark.usefixtures("site")
def test_the_folders_file_wins_over_an_installed_one(tmp_path):
    wider = CODE.replace("5)", "7)")
    files = {"package_of_nets/nets": wider}
    assert load(of(tmp_path / "models", "package_of_nets.nets:tiny", **files)).adapter.raw[0].shape == (7,)


def test_what_is_neither_in_the_folder_nor_installed_is_told(tmp_path):
    assert fault(tmp_path, "nobody_has.it:make") == (
        "architecture: nobody_has/it.py is not in the folder, and nobody_has is not installed; "
        "put nobody_has/it.py there, with make(), or install it"
    )


@pytest.mark.usefixtures("site")
def test_a_module_that_an_installed_package_lacks_is_told(tmp_path):
    assert fault(tmp_path / "models", "package_of_nets.gone:make") == (
        "architecture: importing package_of_nets.gone raised ModuleNotFoundError: "
        "No module named 'package_of_nets.gone'; install a version of package_of_nets that has it, or correct the name"
    )


@pytest.mark.usefixtures("site")
def test_a_factory_that_an_installed_module_lacks_is_told(tmp_path):
    assert fault(tmp_path / "models", "package_of_nets.nets:resnet") == (
        "architecture: package_of_nets.nets has no resnet(); it defines tiny; name one that returns a torch.nn.Module"
    )


def test_a_module_of_the_working_directory_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "module_of_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert "module_of_nets is not installed" in fault(tmp_path / "models", "module_of_nets:tiny")


def test_gradlesss_own_package_is_refused(tmp_path):
    assert fault(tmp_path, "service.nets:make") == (
        "architecture: import service.nets: in this process service is Gradless's own package; "
        "put yours beside the card, or rename it"
    )


# What a version covers


def version(root):
    forget()
    return load(of(root, "package_of_nets.nets:tiny")).version


def test_the_version_covers_the_sources_of_a_package_that_no_distribution_has(tmp_path, site):
    one = version(tmp_path / "one")
    assert one == version(tmp_path / "same")
    blocks = site / "package_of_nets" / "blocks.py"
    blocks.write_text(blocks.read_text() + "# changed\n")
    assert one != version(tmp_path / "other")


def distribution(site, number):
    for old in site.glob("*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    folder = site / f"nets_for_all-{number}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nets-for-all\nVersion: {number}\n")
    (folder / "top_level.txt").write_text("package_of_nets\n")
    (folder / "RECORD").write_text("package_of_nets/__init__.py,,\npackage_of_nets/nets.py,,\n")


def test_the_version_covers_the_number_of_the_distribution_that_has_the_module(tmp_path, site):
    distribution(site, "1.0")
    one = version(tmp_path / "one")
    assert one == version(tmp_path / "same")
    distribution(site, "1.1")
    assert one != version(tmp_path / "other")


def test_the_version_covers_the_modules_source(tmp_path, site):
    distribution(site, "1.0")
    one = version(tmp_path / "one")
    nets = site / "package_of_nets" / "nets.py"
    nets.write_text(nets.read_text() + "# changed\n")
    assert one != version(tmp_path / "other")


def test_the_version_covers_the_folders_files_that_the_module_opens(tmp_path, site, monkeypatch):
    (site / "module_of_nets.py").write_text(CODE.replace("def tiny():", "def tiny(file):\n    open(file).close()"))

    def of_content(root, content):
        folder = of(root, "module_of_nets:tiny")
        (folder.path / "sizes.json").write_text(content)
        with (folder.path / "model.toml").open("a") as card:
            card.write("[architecture_arguments]\nfile = 'sizes.json'\n")
        return find_models(root)["tiny"]

    versions = []
    for name, content in (("one", "1"), ("same", "1"), ("other", "2")):
        folder = of_content(tmp_path / name, content)
        monkeypatch.chdir(folder.path)
        versions.append(load(folder).version)
    assert versions[0] == versions[1] != versions[2]
