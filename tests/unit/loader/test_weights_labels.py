"""A label for each class, from wherever the card says."""

import pytest

from service.errors import ConfigurationError
from service.loader.weights import resolved_labels
from tests.support.tiny import tiny, tiny_at

FIVE = ["cat", "dog", "Vögel", "", "a, b"]


def test_without_labels_they_are_the_ids_as_text(tmp_path):
    assert resolved_labels(tiny(tmp_path), 3) == ["0", "1", "2"]


def test_a_list_is_taken_as_it_is(tmp_path):
    assert resolved_labels(tiny(tmp_path, "random:1", f"labels = {FIVE}"), 5) == FIVE


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_has_one_label_a_line(tmp_path, end):
    path = tiny_at(tmp_path, "random:1", 'labels = "file:labels.txt"')
    (path / "labels.txt").write_bytes("".join(label + end for label in FIVE).encode())
    assert resolved_labels(tiny(tmp_path), 5) == FIVE


def test_a_file_may_end_without_a_line_break(tmp_path):
    (tiny_at(tmp_path, "random:1", 'labels = "file:labels.txt"') / "labels.txt").write_text("cat\ndog")
    assert resolved_labels(tiny(tmp_path), 2) == ["cat", "dog"]


def test_imagenet_has_a_thousand_labels_in_the_order_of_its_classes(tmp_path):
    labels = resolved_labels(tiny(tmp_path, "random:1", 'labels = "torchvision:imagenet"'), 1000)
    assert [labels[number] for number in (0, 281, 985, 999)] == ["tench", "tabby", "daisy", "toilet tissue"]


@pytest.mark.parametrize("labels", ['["a", "b", "c", "d"]', '["a", "b", "c", "d", "e", "f"]', "[]"])
def test_more_or_fewer_labels_than_classes_are_refused(tmp_path, labels):
    folder = tiny(tmp_path, "random:1", f"labels = {labels}")
    with pytest.raises(ConfigurationError, match=r"model\.toml: labels: \d labels for 5 classes; give 5"):
        resolved_labels(folder, 5)


def test_a_file_that_is_no_text_is_told_so(tmp_path):
    (tiny_at(tmp_path, "random:1", 'labels = "file:labels.txt"') / "labels.txt").write_bytes(b"cat\n\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"labels: reading them raised UnicodeDecodeError: .*give a text file"):
        resolved_labels(tiny(tmp_path), 2)
