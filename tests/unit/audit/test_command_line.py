"""`gradless audit` as it is typed: exit codes and words."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny import tiny_at

SCRIPTS = Path(__file__).parent / "scripts"


def gradless(*arguments, cwd=None):
    command = [sys.executable, "-m", "service", "audit", *map(str, arguments), "--device", "cpu"]
    root = str(Path(__file__).parents[3])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd or root, env=environment)


def test_modes_are_printed_as_json_drawn_and_written(tmp_path):
    tiny_at(tmp_path)
    plot, page = tmp_path / "out.png", tmp_path / "out.html"
    done = gradless("--models", tmp_path, "--batch-size", "2", "--json", "--plot", plot, "--html", page)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    audit = json.loads(done.stdout)
    assert (audit["model"], audit["batch_size"], len(audit["modes"])) == ("tiny", 2, 7)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "eval+inference_mode" in page.read_text()


def test_a_pitfall_is_exit_1_with_its_line_cost_and_fix():
    file = SCRIPTS / "wrong" / "eval_without_no_grad.py"
    done = gradless("--script", f"{file}:predict", "--shape", "3,16,16")
    assert done.returncode == 1, done.stderr
    line = file.read_text()[: file.read_text().index("# pitfall")].count("\n") + 1
    place = file.relative_to(Path(__file__).parents[3])
    assert f"{place}:{line}: gradients-left-on" in done.stdout
    assert "nodes and keeps" in done.stdout
    assert "Fix: run the forward under torch.inference_mode()" in done.stdout


def test_no_pitfall_is_exit_0_and_a_module_can_be_named_as_python_does():
    done = gradless("--script", "eval_and_no_grad:predict", "--shape", "3,16,16", "--json", cwd=SCRIPTS / "right")
    assert done.returncode == 0, done.stderr
    audit = json.loads(done.stdout)
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
def test_wrong_use_is_exit_2_with_the_fix(arguments, words):
    done = gradless(*arguments)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr
