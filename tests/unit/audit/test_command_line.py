"""`gradless audit` as it is typed: exit codes and words."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny import tiny_at

SCRIPTS = Path(__file__).parent / "scripts"
#: Wide enough that no line is folded.
COLUMNS = "100"


def in_a_process(*arguments):
    command = [sys.executable, "-m", "service", "audit", *map(str, arguments), "--device", "cpu"]
    root = str(Path(__file__).parents[3])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "COLUMNS": COLUMNS}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=root, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def audited(monkeypatch, here):
    """The same in this process: what it starts imports torch once for all."""
    monkeypatch.setenv("COLUMNS", COLUMNS)
    return functools.partial(here, "audit")


def test_modes_are_printed_as_json_drawn_and_written(audited, tmp_path):
    tiny_at(tmp_path)
    plot, page = tmp_path / "out.png", tmp_path / "out.html"
    flags = ["--models", tmp_path, "--batch-size", "2", "--threads", "1", "--json", "--plot", plot, "--html", page]
    code, out, err = audited(*flags)
    assert code == 0, err
    assert err == ""
    audit = json.loads(out)
    assert (audit["model"], audit["batch_size"], len(audit["modes"])) == ("tiny", 2, 7)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "eval+inference_mode" in page.read_text()


def test_a_pitfall_is_exit_1_with_its_line_cost_and_fix(audited, monkeypatch):
    root = Path(__file__).parents[3]
    monkeypatch.chdir(root)
    file = SCRIPTS / "wrong" / "eval_without_no_grad.py"
    code, out, err = audited("--script", f"{file}:predict", "--shape", "3,16,16")
    assert code == 1, err
    line = file.read_text()[: file.read_text().index("# pitfall")].count("\n") + 1
    place = file.relative_to(root)
    assert f"{place}:{line}: gradients-left-on" in out
    assert "nodes and keeps" in out
    assert "Fix: run the forward under torch.inference_mode()" in out


def test_a_process_that_has_imported_nothing_beforehand_finds_the_pitfall_of_a_training_step():
    """Its first optimizer imports torch's compiler, under the eyes of the audit."""
    script = SCRIPTS / "wrong" / "frozen_batchnorm_moves.py"
    code, out, err = in_a_process("--script", f"{script}:step", "--shape", "3,16,16")
    assert code == 1, err
    assert err == ""
    assert out.count("frozen-batchnorm-moves") == 1
    assert "\n1 pitfall in 4 calls" in out


def test_no_pitfall_is_exit_0_and_a_module_can_be_named_as_python_does(audited, monkeypatch):
    monkeypatch.chdir(SCRIPTS / "right")
    code, out, err = audited("--script", "eval_and_no_grad:predict", "--shape", "3,16,16", "--json")
    assert code == 0, err
    audit = json.loads(out)
    assert (audit["pitfalls"], audit["training"], audit["batch_shape"]) == ([], False, [8, 3, 16, 16])


RIGHT = SCRIPTS / "right" / "frozen.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--script", "nowhere.py:predict"], "nowhere.py is not there"),
        (["--script", f"{RIGHT}:answer"], "answer: is not a function in it; there are Net, model, predict"),
        (["--script", str(RIGHT)], "names no function"),
        (["--script", f"{RIGHT}:predict", "--shape", "3,x"], "--shape: 3,x: is not a shape"),
        (["--script", f"{RIGHT}:predict", "--shape", "4,16,16"], "raised RuntimeError"),
        (["--script", f"{RIGHT}:predict", "--html", "out.html"], "--script stands alone"),
        (["torchvision:resnet1", "--batch-size", "1"], "no classification model 'resnet1'"),
    ],
)
def test_wrong_use_is_exit_2_with_the_fix(audited, arguments, words):
    code, out, err = audited(*arguments)
    assert code == 2, out
    assert words in err
    assert "Traceback" not in err
