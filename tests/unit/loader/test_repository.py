"""The folder of models: what is found in it, and the faults that need no torch to be seen."""

import errno
import os
from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.loader.repository import choose_default, find_models, package_file, read_catalogue
from tests.support.models import make_models
from tests.support.tiny import tiny_at

TORCHVISION = 'weights = "random:1"\narchitecture = "torchvision:resnet18"\n'


def faults(root):
    with pytest.raises(ConfigurationError) as caught:
        find_models(root)
    return caught.value.problems


def fault(root):
    [only] = faults(root)
    return only


@pytest.fixture
def three(tmp_path):
    return find_models(make_models(tmp_path, second=TORCHVISION, third=TORCHVISION, first=TORCHVISION))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that holds weights and cannot be imported."""
    folder = tmp_path / "site" / "package_of_weights"
    (folder / "inside").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "inside" / "weights.pth").touch()
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_models_are_found_by_the_names_of_their_folders_in_order(three, tmp_path):
    assert list(three) == ["first", "second", "third"]
    assert [folder.name for folder in three.values()] == list(three)
    assert three["first"].path == (tmp_path / "first").resolve()
    assert three["first"].card.weights == "random:1"


def test_a_folder_without_a_card_and_a_card_without_a_folder_are_no_models(tmp_path):
    make_models(tmp_path, model=TORCHVISION)
    (tmp_path / "notes").mkdir()
    (tmp_path / "model.toml").write_text("nonsense")
    assert list(find_models(tmp_path)) == ["model"]


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", "..data", "..2026_01_01", ".hidden"])
def test_a_hidden_folder_is_passed_over_whatever_it_holds(tmp_path, name):
    make_models(tmp_path, one=TORCHVISION, **{name: "not a card"})
    assert list(find_models(tmp_path)) == ["one"]


def test_files_and_links_to_nothing_among_the_models_are_passed_over(tmp_path):
    make_models(tmp_path, one=TORCHVISION)
    (tmp_path / "README.md").touch()
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    assert list(find_models(tmp_path)) == ["one"]


def test_a_card_that_is_a_link_to_nothing_is_missed(tmp_path):
    make_models(tmp_path, one=TORCHVISION)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "model.toml").symlink_to("..data/model.toml")
    assert "two/model.toml: file: is missing" in fault(tmp_path)


@pytest.fixture
def locked(monkeypatch):
    """Locks a path as the kernel does for a user other than root."""

    def lock(path: Path) -> None:
        stat = os.stat

        def refuse(each, *arguments, **options):
            if Path(each) == path or path in Path(each).parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(each))
            return stat(each, *arguments, **options)

        monkeypatch.setattr(os, "stat", refuse)

    return lock


@pytest.mark.parametrize("name", ["lost+found", "__pycache__"])
def test_a_folder_that_cannot_be_read_and_is_not_a_model_by_its_name_is_passed_over(tmp_path, locked, name):
    make_models(tmp_path, one=TORCHVISION, **{name: TORCHVISION})
    locked(tmp_path / name / "model.toml")
    assert list(find_models(tmp_path)) == ["one"]


def test_a_folder_that_cannot_be_read_and_may_be_a_model_is_told(tmp_path, locked):
    make_models(tmp_path, one=TORCHVISION, two=TORCHVISION)
    locked(tmp_path / "two" / "model.toml")
    assert fault(tmp_path).startswith(f"{tmp_path}/two: folder: cannot be read: Permission denied; make it readable")


def test_a_file_of_a_card_in_a_folder_that_cannot_be_read_is_told(tmp_path, locked):
    make_models(tmp_path, one='weights = "file:deep/weights.pth"\narchitecture = "torchvision:resnet18"\n')
    locked(tmp_path / "one" / "deep")
    assert "one/deep/weights.pth: file: cannot be read: Permission denied; make it readable" in fault(tmp_path)


def test_models_in_a_folder_that_cannot_be_read_are_told(tmp_path, locked):
    locked(tmp_path / "models" / "one")
    make_models(tmp_path / "models", one=TORCHVISION)
    assert "models: cannot be read: Permission denied; make it readable" in fault(tmp_path / "models")


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    assert "is not a folder; name the folder of your models with --models, or make a" in fault(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert fault(tmp_path / "file").endswith("is not a folder; name the folder of your models with --models")


def test_a_folder_without_models_is_refused(tmp_path):
    assert "holds no model; make a first model with these three commands:\n    mkdir -p" in fault(tmp_path)


def test_all_faults_of_all_cards_are_told_at_once(tmp_path):
    make_models(
        tmp_path,
        broken="no toml",
        good=TORCHVISION,
        incomplete='colour = "blue"\n' + TORCHVISION,
        missing='weights = "file:gone.pth"\narchitecture = "gone:make"\nlabels = "file:gone.txt"\n',
    )
    told = [problem.removeprefix(f"{tmp_path}/").split(": ")[:2] for problem in faults(tmp_path)]
    assert told == [
        ["broken/model.toml", "file"],
        ["incomplete/model.toml", "colour"],
        ["missing/model.toml", "weights"],
        ["missing/model.toml", "architecture"],
        ["missing/model.toml", "labels"],
    ]


@pytest.mark.parametrize("name", ["a model", "modèle", "a%2Fb", "a\nb"])
def test_a_folder_whose_name_cannot_stand_in_a_path_is_refused(tmp_path, name):
    make_models(tmp_path, **{name: TORCHVISION})
    assert "is not a valid model name" in fault(tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "ResNet-18_v1.5", "0", "_", "-"])
def test_a_folder_of_letters_digits_dots_and_dashes_is_a_model(tmp_path, name):
    assert list(find_models(make_models(tmp_path, **{name: TORCHVISION}))) == [name]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".pth.tar", ""])
def test_a_state_dict_in_the_folder_is_found(tmp_path, suffix):
    (tiny_at(tmp_path, f"file:weights{suffix}") / f"weights{suffix}").touch()
    assert list(find_models(tmp_path)) == ["tiny"]


def test_weights_that_are_not_in_the_folder_are_missed(tmp_path):
    tiny_at(tmp_path, "file:weights.pth")
    assert "weights: weights.pth is not in the folder" in fault(tmp_path)


def test_weights_that_are_a_folder_are_refused(tmp_path):
    (tiny_at(tmp_path, "file:weights.pth") / "weights.pth").mkdir()
    assert "weights: weights.pth is a folder; name the file of weights in it" in fault(tmp_path)


@pytest.mark.parametrize("key", ["checkpoint_key", "strip_prefix"])
@pytest.mark.parametrize("weights", ["random:1", "factory", "torchvision:ResNet18_Weights.DEFAULT"])
def test_a_key_for_files_of_weights_is_refused_where_there_is_no_file(tmp_path, key, weights):
    tiny_at(tmp_path, weights, f'{key} = "model."')
    words = f'is for a file of weights, and weights = "{weights}" names none; leave it out'
    assert fault(tmp_path) == f"{tmp_path / 'tiny' / 'model.toml'}: {key}: {words}"


@pytest.mark.parametrize("seed", ["0", "1", str(2**63 - 1)])
def test_a_number_below_two_to_the_63_is_a_seed(tmp_path, seed):
    tiny_at(tmp_path, f"random:{seed}")
    assert find_models(tmp_path)["tiny"].card.weights == f"random:{seed}"


@pytest.mark.parametrize("seed", ["-1", "one", "1.5", " 1", "0x1", str(2**63), "9" * 40, "9" * 5_000])
def test_anything_else_is_no_seed(tmp_path, seed):
    tiny_at(tmp_path, f"random:{seed}")
    assert f"weights: the seed {seed[:40]!r} is not a number below 2**63" in fault(tmp_path)


def test_an_architecture_that_is_not_in_the_folder_is_missed(tmp_path):
    (tiny_at(tmp_path) / "architecture.py").unlink()
    words = "architecture.py is not in the folder, and architecture is not installed"
    fix = "put architecture.py there, with tiny(), or install it"
    assert fault(tmp_path) == f"{tmp_path / 'tiny' / 'model.toml'}: architecture: {words}; {fix}"


@pytest.mark.parametrize("labels", ['"torchvision:imagenet"', '["a", "b"]', '"file:labels.txt"'])
def test_labels_come_from_torchvision_a_list_or_a_file(tmp_path, labels):
    (tiny_at(tmp_path, "random:1", f"labels = {labels}") / "labels.txt").touch()
    assert list(find_models(tmp_path)) == ["tiny"]


def test_labels_that_are_not_in_the_folder_are_missed(tmp_path):
    tiny_at(tmp_path, "random:1", 'labels = "file:labels.txt"')
    assert "labels: labels.txt is not in the folder; it must hold one label a line" in fault(tmp_path)


@pytest.mark.parametrize("labels", ["labels.txt", "torchvision:coco", "imagenet"])
def test_labels_of_another_kind_are_refused(tmp_path, labels):
    (tiny_at(tmp_path, "random:1", f'labels = "{labels}"') / "labels.txt").touch()
    assert f"labels: {labels!r} is not valid" in fault(tmp_path)


def test_a_file_inside_a_package_is_found_without_importing_it(package):
    assert package_file("package_of_weights/inside/weights.pth") == package / "inside" / "weights.pth"


@pytest.mark.parametrize(
    "location",
    [
        "package_of_weights/inside/gone.pth",
        "package_of_weights/inside",
        "package_of_weights",
        "package_nobody_has/weights.pth",
        "json.decoder/weights.pth",
        "bisect/weights.pth",
        "no-name/weights.pth",
        "/weights.pth",
    ],
)
def test_where_there_is_no_package_or_no_file_in_it_there_is_none(package, location):
    assert package_file(location) is None


def test_weights_of_a_package_that_is_not_installed_are_missed(tmp_path):
    tiny_at(tmp_path, "package:package_nobody_has/weights.pth")
    assert "weights.pth is not there; install package_nobody_has, or correct the path in it" in fault(tmp_path)


def test_the_only_model_is_the_default(tmp_path):
    assert choose_default(find_models(make_models(tmp_path, only=TORCHVISION)), None) == "only"


def test_of_several_models_the_wanted_one_is_the_default(three):
    assert choose_default(three, "second") == "second"


def test_of_several_models_none_is_the_default_by_itself(three):
    with pytest.raises(ConfigurationError, match="default_model: is not set; choose one of first, second, third"):
        choose_default(three, None)


def test_a_default_that_is_no_model_is_refused_even_if_there_is_only_one(tmp_path):
    models = find_models(make_models(tmp_path, only=TORCHVISION))
    with pytest.raises(ConfigurationError, match="there is no model 'other'; there are only"):
        choose_default(models, "other")


def test_the_default_stays_when_another_model_joins_unless_another_is_wanted(three):
    assert choose_default(three, None, "third") == "third"
    assert choose_default(three, "second", "third") == "second"
    with pytest.raises(ConfigurationError, match="is not set"):
        choose_default(three, None, "gone")


#: Cards and files that are wrong, by what is said of them.
WRONG = {
    "crops: there is no such key": {"card": "crops = 3\n"},
    "weights: gone.pth is not in the folder": {"weights": "file:gone.pth"},
}


def put(root, name, *lines, card="", weights="random:1"):
    file = tiny_at(root, weights, *lines, name=name) / "model.toml"
    file.write_text(file.read_text() + card)


@pytest.mark.parametrize(("words", "wrong"), WRONG.items(), ids=["a key", "a file"])
def test_a_fault_of_a_model_that_is_not_required_is_told_and_the_rest_served(tmp_path, words, wrong):
    put(tmp_path, "good")
    put(tmp_path, "wrong", "required = false", **wrong)
    catalogue = read_catalogue(tmp_path, "good")
    assert list(catalogue.folders) == ["good"]
    assert words in catalogue.broken["wrong"]
    assert "default" not in catalogue.broken["wrong"]


def test_a_fault_of_a_required_model_stops_the_start_and_all_faults_are_told(tmp_path):
    put(tmp_path, "good")
    put(tmp_path, "optional", "required = false", card="crops = 3\n")
    put(tmp_path, "wrong", card="crops = 3\n")
    with pytest.raises(ConfigurationError) as caught:
        read_catalogue(tmp_path, "good")
    optional, wrong = caught.value.problems
    assert "optional/model.toml" in optional
    assert "wrong/model.toml" in wrong


def test_a_card_that_is_not_toml_counts_as_required(tmp_path):
    put(tmp_path, "good")
    put(tmp_path, "wrong", "required = false", card="[input\n")
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        read_catalogue(tmp_path, "good")


def test_with_nothing_to_serve_all_faults_are_told(tmp_path):
    for name in ("one", "two"):
        put(tmp_path, name, "required = false", card="crops = 3\n")
    with pytest.raises(ConfigurationError) as caught:
        read_catalogue(tmp_path, "one")
    assert len(caught.value.problems) == 2


def test_a_default_model_that_is_broken_says_so(tmp_path):
    put(tmp_path, "good")
    put(tmp_path, "wrong", "required = false", card="crops = 3\n")
    words = "it is the default model, so /predict answers nothing until it is fixed"
    assert read_catalogue(tmp_path, "wrong").broken["wrong"].endswith(words)
