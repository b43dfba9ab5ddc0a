"""Each test configures a process of its own: the streams and loggers are a whole process's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """\
import logging, sys, warnings
import structlog
from service.logs import configure_logs, end_process, flush_logs
from service.settings import Settings
configure_logs(Settings())
log = structlog.get_logger()
"""


def run(code: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], text=True, timeout=60, cwd=ROOT, **options)


def lines(code: str, returncode: int = 0) -> list[dict]:
    done = run(BEGIN + code, capture_output=True)
    assert done.returncode == returncode, done.stderr
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_out_when_the_process_ends_by_itself_or_at_once():
    code = "for number in range(4000):\n    log.info('line', number=number)\n"
    for ending, code_of in (("", 0), ("end_process(3)", 3), ("sys.exit(4)", 4)):
        assert [line["number"] for line in lines(code + ending, code_of)] == list(range(4000))


def test_an_exception_keeps_its_traceback_in_its_line():
    [line] = lines("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('oh', a=1)\n")
    assert (line["event"], line["a"], line["level"]) == ("oh", 1, "error")
    assert "Traceback" in line["exception"]
    assert "ZeroDivisionError" in line["exception"]


def test_libraries_loggers_and_warnings_go_the_same_way():
    library = BEGIN.replace(
        "import structlog", "import structlog\nimport service.supervisor.preload"
    )  # torch, as in every child
    code = (
        "logging.getLogger('uvicorn.error').warning('of %s', 'uvicorn')\n"
        "logging.getLogger('torch._dynamo').warning('of torch')\n"
        "logging.getLogger('torch.fx.passes.utils.matcher_utils').warning('of fx')\n"
        "warnings.warn('of a warning')\n"
    )
    done = run(library + code, capture_output=True)
    assert done.returncode == 0
    said = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert said[:3] == ["of uvicorn", "of torch", "of fx"]
    assert "UserWarning: of a warning" in said[3]


def test_what_is_printed_goes_to_stderr_in_order_and_splits_no_line():
    code = "print('begun', end='')\nlog.info('line')\nprint(' and ended')\nprint('error', file=sys.stderr)\n"
    done = run(BEGIN + code, capture_output=True)
    first, *printed = done.stderr.splitlines()
    assert json.loads(first)["event"] == "line"
    assert printed == ["begun and ended", "error"]
    assert done.stdout == ""


#: Every way for a process to write; twice as much as the queue holds.
WAYS = {
    "structlog": "log.info('x' * 300)",
    "logging": "logging.getLogger('uvicorn.error').warning('x' * 300)",
    "a record that cannot be formatted": "logging.getLogger('uvicorn.error').warning('%d', 'x')",
    "a warning": "warnings.warn('x' * 300)",
    "print": "print('x' * 300)",
    "print to stderr": "print('x' * 300, file=sys.stderr)",
    "rich": "Console(stderr=True).print('x' * 300)",
    "torch": "logging.getLogger('torch').warning('x' * 300)",
    "an exception in a finalizer": "Broken()",
}
STUCK = """\
from rich.console import Console
warnings.simplefilter("always")
class Broken:
    def __del__(self):
        1 / 0
for _ in range(600):
    {way}
{ending}
"""


@pytest.mark.parametrize("way", WAYS)
def test_nothing_waits_for_a_reader_that_does_not_read(way):
    """600 lines are more than a pipe holds. A process that waits is killed by the test's limit."""
    read_end, write_end = os.pipe()
    try:
        code = BEGIN.replace("configure_logs(", "import service.supervisor.preload\nconfigure_logs(")
        code += STUCK.format(way=WAYS[way], ending="end_process(5)")
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stderr=write_end, stdout=write_end, timeout=60, cwd=ROOT)
        assert done.returncode == 5
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "raise RuntimeError"])
def test_a_process_whose_reader_does_not_read_ends_by_itself_too(ending):
    read_end, write_end = os.pipe()
    try:
        code = BEGIN + "for _ in range(600):\n    log.info('x' * 300)\n" + ending
        done = subprocess.run([sys.executable, "-c", code], stderr=write_end, timeout=60, cwd=ROOT)
        assert done.returncode == (1 if "raise" in ending else 0)
    finally:
        os.close(read_end)
        os.close(write_end)


DIES = """\
from service.wire.child import begin_child, run_loop
from service.settings import Settings
async def serve():
    raise RuntimeError("of what it died")
begin_child("test", Settings())
run_loop(lambda: {made})
"""


@pytest.mark.parametrize("made", ["serve()", "1 / 0"])
def test_a_child_that_dies_says_why_in_one_line(made):
    done = run(DIES.format(made=made), capture_output=True)
    assert done.returncode == 1
    [line] = [json.loads(line) for line in done.stderr.splitlines()]
    assert line["event"] == "process died"
    assert ("of what it died" if made == "serve()" else "ZeroDivisionError") in line["exception"]
