"""Each test configures a process of its own: the streams and loggers are a whole process's.

Those that need torch are forked from one that has imported it, as a server's children are.
"""

from __future__ import annotations

import json
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


def run(code: str, timeout: float = 60, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], text=True, timeout=timeout, cwd=ROOT, **options)


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
"""
#: Ways to end, and the code of each.
ENDINGS = {"": 0, "sys.exit(0)": 0, "raise RuntimeError": 1}
LIBRARIES = """\
logging.getLogger('uvicorn.error').warning('of %s', 'uvicorn')
logging.getLogger('torch._dynamo').warning('of torch')
logging.getLogger('torch.fx.passes.utils.matcher_utils').warning('of fx')
warnings.warn('of a warning')
"""

#: Imports torch, as in every child, and runs each code of standard input in a fork of its own, whose stdout and stderr
#: are a pipe. Kills what has not ended in time, and prints how each has ended and the first bytes of what it wrote.
FORKS = """\
import json, os, signal, sys, time
import service.supervisor.preload
children = {}
for name, code in json.load(sys.stdin).items():
    read_end, write_end = os.pipe()
    if not (pid := os.fork()):
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        exec(code, {"__name__": "__main__"})
        sys.exit()
    os.close(write_end)
    children[name] = pid, read_end
ended = {}
limit = time.monotonic() + 60
for name, (pid, read_end) in children.items():
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > limit:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    ended[name] = os.waitstatus_to_exitcode(found[1]), os.read(read_end, 65_536).decode()
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def ended() -> dict[str, tuple[int, str]]:
    """How the forks have ended, all at the same time, and what they wrote; nobody read meanwhile."""
    codes = {way: STUCK.format(way=code) + "end_process(5)" for way, code in WAYS.items()}
    codes |= {ending: STUCK.format(way=WAYS["structlog"]) + ending for ending in ENDINGS}
    codes["libraries"] = LIBRARIES
    codes = {name: BEGIN + code for name, code in codes.items()}
    done = run(FORKS, input=json.dumps(codes), stdout=subprocess.PIPE, timeout=120)
    assert done.returncode == 0
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_waits_for_a_reader_that_does_not_read(ended, way):
    """600 lines are more than a pipe holds. A process that waits is killed."""
    code, written = ended[way]
    assert code == 5
    assert len(written) > 32_000  # the pipe was full


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_whose_reader_does_not_read_ends_by_itself_too(ended, ending):
    code, written = ended[ending]
    assert code == ENDINGS[ending]
    assert len(written) > 32_000


def test_libraries_loggers_and_warnings_go_the_same_way(ended):
    code, written = ended["libraries"]
    assert code == 0
    said = [json.loads(line)["event"] for line in written.splitlines()]
    assert said[:3] == ["of uvicorn", "of torch", "of fx"]
    assert "UserWarning: of a warning" in said[3]


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
