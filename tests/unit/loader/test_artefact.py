"""A full proof is kept under a key that changes with all that it depends on, and is lost without harm."""

import resource
import stat

import msgspec
import pytest
import torch

from service.loader import artefact
from service.loader.artefact import Record, Records, artefact_key, cpu_features, write_whole
from service.loader.report import Figures, Report, RuleResult
from service.loader.tuning import Tuning

CPU = torch.device("cpu")
FIGURES = Figures(0, 0, 0, 1e-7, 0.5, 1e-5, [1, 2, 4], {1: 0.01, 4: 0.03}, 10, 0.1)


def record(passed=True):
    made = Report([RuleResult("eval", passed, "It is so.")], FIGURES, "2026-01-01T00:00:00+00:00")
    return Record(Tuning("channels_last", 2), made)


def key(version="338f", dtype="float32", shape=(8, 3, 224, 224), options=(2,)):
    return artefact_key(version, dtype, shape, CPU, *options)


def test_a_key_is_a_plain_file_name_and_the_same_for_the_same():
    assert key() == key()
    assert len(key()) == 32
    assert key().isalnum()


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "338e"},
        {"dtype": "bfloat16"},
        {"shape": (8, 3, 160, 160)},
        {"options": (1,)},
    ],
)
def test_a_key_changes_with(changed):
    assert key(**changed) != key()


@pytest.mark.parametrize("what", ["service.__version__", "torch.__version__", "torchvision.__version__"])
def test_a_key_changes_with_the_version_of(what, monkeypatch):
    before = key()
    monkeypatch.setattr(f"service.loader.artefact.{what}", "99.9")
    assert key() != before


def test_a_key_changes_with_the_processor(monkeypatch, tmp_path):
    before = key()
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : Another\nflags : sse\n\nprocessor : 1\n")
    monkeypatch.setattr(artefact, "_CPU_INFO", tmp_path / "cpuinfo")
    assert key() != before
    assert cpu_features().endswith("model name : Another flags : sse")


def test_without_a_list_of_features_the_processor_still_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(artefact, "_CPU_INFO", tmp_path / "none")
    assert cpu_features()


def test_a_report_is_read_as_it_was_written(tmp_path):
    Records(tmp_path / "cache").write(key(), record())
    assert Records(tmp_path / "cache").read(key()) == record()


def test_what_is_kept_is_the_owners_alone(tmp_path):
    Records(tmp_path / "cache").write(key(), record())
    assert stat.S_IMODE((tmp_path / "cache" / "proofs").stat().st_mode) == 0o700
    assert [file.suffix for file in (tmp_path / "cache" / "proofs").iterdir()] == [".json"]


def test_another_key_has_no_report(tmp_path):
    Records(tmp_path).write(key(), record())
    assert Records(tmp_path).read(key("338e")) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", msgspec.json.encode(record(passed=False))])
def test_a_file_that_is_no_passed_report_is_as_good_as_none(tmp_path, content):
    Records(tmp_path).write(key(), record())
    (tmp_path / "proofs" / f"{key()}.json").write_bytes(content)
    assert Records(tmp_path).read(key()) is None


def test_a_folder_that_cannot_be_written_keeps_nothing_and_harms_nobody(tmp_path):
    (tmp_path / "file").write_text("no folder")
    records = Records(tmp_path / "file")
    records.write(key(), record())
    assert records.read(key()) is None


def test_what_could_not_be_written_whole_leaves_nothing_behind(tmp_path):
    write_whole(tmp_path / "kept.json", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(tmp_path / "kept.json", bytes(11))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("kept.json", b"old")]
