"""A label for each class, from wherever the card says."""

import pytest

from service.errors import ConfigurationError
from service.loader.resolved import resolved_labels
from tests.support.tiny import tiny, tiny_at

FIVE = ["cat", "dog", "Vögel", "a form feed\x0c, \x85, \u2028 and \x1c", "a, b"]


def test_without_labels_they_are_the_ids_as_text(tmp_path):
    assert resolved_labels(tiny(tmp_path), 3) == ["0", "1", "2"]


def test_a_list_is_taken_as_it_is(tmp_path):
    assert resolved_labels(tiny(tmp_path, "random:1", 'labels = ["cat", "", "Vögel"]'), 3) == ["cat", "", "Vögel"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_has_one_label_a_line(tmp_path, end):
    path = tiny_at(tmp_path, "random:1", 'labels = "file:labels.txt"')
    (path / "labels.txt").write_bytes("".join(label + end for label in FIVE).encode())
    assert resolved_labels(tiny(tmp_path), 5) == FIVE


def test_a_file_may_end_without_a_line_break(tmp_path):
    (tiny_at(tmp_path, "random:1", 'labels = "file:labels.txt"') / "labels.txt").write_text("cat\ndog")
    assert resolved_labels(tiny(tmp_path), 2) == ["cat", "dog"]


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n \r\n", "\n\t\n\n"])
def test_blank_lines_at_the_end_are_no_labels_nor_is_a_byte_order_mark_part_of_one(tmp_path, end):
    path = tiny_at(tmp_path, "random:1", 'labels = "file:labels.txt"')
    (path / "labels.txt").write_bytes(f"\ufeffcat\ndog{end}".encode())
    assert resolved_labels(tiny(tmp_path), 2) == ["cat", "dog"]


def test_imagenet_has_a_thousand_labels_in_the_order_of_its_classes(tmp_path):
    labels = resolved_labels(tiny(tmp_path, "random:1", 'labels = "torchvision:imagenet"'), 1000)
    assert [labels[number] for number in (0, 281, 985, 999)] == ["tench", "tabby", "daisy", "toilet tissue"]


@pytest.mark.parametrize("labels", ['["a", "b", "c", "d"]', '["a", "b", "c", "d", "e", "f"]', "[]"])
def test_more_or_fewer_labels_than_classes_are_refused(tmp_path, labels):
    folder = tiny(tmp_path, "random:1", f"labels = {labels}")
    with pytest.raises(ConfigurationError, match=r"model\.toml: labels: \d labels for 5 classes; give 5"):
        resolved_labels(folder, 5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cat\nV\xf6gel\n", r"line 2, byte 2 \(0xf6\) is not UTF-8 text; save the file as UTF-8"),
        ("cat\ndog\n".encode("utf-16"), r"line 1, byte 1 \(0xff\) is not UTF-8 text"),
        ("cat\ndog\n".encode("utf-16-le"), r"line 1, byte 2 \(0x00\) is not UTF-8 text"),
        (b"cat\n\ndog\n", "line 2 is blank; give each class a label on a line of its own"),
        (b"cat\r\n \r\ndog\r\n", "line 2 is blank"),
    ],
)
def test_a_file_that_is_not_labels_in_utf_8_is_refused_before_anything_is_loaded(tmp_path, content, words):
    (tiny_at(tmp_path, "random:1", 'labels = "file:labels.txt"') / "labels.txt").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"labels\.txt: labels: " + words):
        tiny(tmp_path)
