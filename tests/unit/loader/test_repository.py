"""The folder of models: what is found in it, and the faults that need no torch to be seen."""

import pytest

from service.errors import ConfigurationError
from service.loader.repository import choose_default, find_models, package_file
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


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    assert "is no folder" in fault(tmp_path / "nowhere")


def test_a_folder_without_models_is_refused(tmp_path):
    assert "holds no model" in fault(tmp_path)


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


@pytest.mark.parametrize("name", ["a model", "modèle", ".hidden", "a%2Fb", "a\nb"])
def test_a_folder_whose_name_cannot_stand_in_a_path_is_refused(tmp_path, name):
    make_models(tmp_path, **{name: TORCHVISION})
    assert "is no name for a model" in fault(tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "ResNet-18_v1.5", "0", "_", "-"])
def test_a_folder_of_letters_digits_dots_and_dashes_is_a_model(tmp_path, name):
    assert list(find_models(make_models(tmp_path, **{name: TORCHVISION}))) == [name]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_state_dict_in_the_folder_is_found(tmp_path, suffix):
    (tiny_at(tmp_path, f"file:weights{suffix}") / f"weights{suffix}").touch()
    assert list(find_models(tmp_path)) == ["tiny"]


def test_weights_of_another_kind_of_file_are_refused(tmp_path):
    (tiny_at(tmp_path, "file:weights.onnx") / "weights.onnx").touch()
    assert "weights.onnx is no state_dict; it must end in .pth, .pt, .safetensors" in fault(tmp_path)


def test_weights_that_are_not_in_the_folder_are_missed(tmp_path):
    tiny_at(tmp_path, "file:weights.pth")
    assert "weights: weights.pth is not in the folder" in fault(tmp_path)


def test_weights_that_are_a_folder_are_missed(tmp_path):
    (tiny_at(tmp_path, "file:weights.pth") / "weights.pth").mkdir()
    assert "weights: weights.pth is not in the folder" in fault(tmp_path)


@pytest.mark.parametrize("seed", ["0", "1", str(2**63 - 1)])
def test_a_number_below_two_to_the_63_is_a_seed(tmp_path, seed):
    tiny_at(tmp_path, f"random:{seed}")
    assert find_models(tmp_path)["tiny"].card.weights == f"random:{seed}"


@pytest.mark.parametrize("seed", ["-1", "one", "1.5", " 1", "0x1", str(2**63), "9" * 40])
def test_anything_else_is_no_seed(tmp_path, seed):
    tiny_at(tmp_path, f"random:{seed}")
    assert f"weights: the seed {seed!r} is no number below 2**63" in fault(tmp_path)


def test_an_architecture_that_is_not_in_the_folder_is_missed(tmp_path):
    (tiny_at(tmp_path) / "architecture.py").unlink()
    assert "architecture: architecture.py is not in the folder; it must define tiny()" in fault(tmp_path)


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
    assert f"labels: {labels!r} does not fit" in fault(tmp_path)


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
    assert "weights.pth is not there; install package_nobody_has, or mend the path in it" in fault(tmp_path)


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
