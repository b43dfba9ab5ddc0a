import io
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from service.host.descriptors import print_in_utf8

ROOT = Path(__file__).parents[3]

CODE = """\
import os, subprocess, sys
from service.host.descriptors import fill_standard_descriptors
fill_standard_descriptors()
child = ["readlink", *(f"/proc/self/fd/{number}" for number in range(3))]
read, write = os.pipe()
assert read > 2
subprocess.run(child, pass_fds=[write], check=False)
files = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
os.write(int(sys.argv[1]), repr(files).encode())
"""


def test_a_standard_descriptor_that_is_closed_goes_nowhere_and_an_open_one_stays(tmp_path):
    with (tmp_path / "said").open("wb") as file:
        command = [sys.executable, "-c", CODE, str(file.fileno())]
        closed = ["sh", "-c", 'exec "$@" 0<&- 2>&-', "sh", *command]
        done = subprocess.run(closed, stdout=subprocess.PIPE, pass_fds=[file.fileno()], cwd=ROOT, timeout=60)
    said = (tmp_path / "said").read_text()
    assert done.returncode == 0
    assert eval(said)[0] == eval(said)[2] == "/dev/null"
    assert "pipe:" in eval(said)[1]
    child = done.stdout.decode().splitlines()
    assert child[0] == child[2] == "/dev/null"


#: Every choice of standard descriptors that a shell may have closed.
CLOSED = [chosen for count in (1, 2, 3) for chosen in itertools.combinations(["<&-", ">&-", "2>&-"], count)]
USE = """\
import sys
from service.host.descriptors import fill_standard_descriptors
fill_standard_descriptors()
print("to stdout")
print("to stderr", file=sys.stderr)
assert sys.stdin.read() == sys.stdin.buffer.read().decode() == ""
assert [file.fileno() for file in (sys.stdin, sys.stdout, sys.stderr)] == [0, 1, 2]
assert not sys.stderr.isatty()
"""


@pytest.mark.parametrize("closed", CLOSED, ids=" ".join)
def test_what_python_has_for_a_closed_one_can_be_read_and_written_and_is_not_another_one(closed):
    command = ["sh", "-c", f'exec "$@" {" ".join(closed)}', "sh", sys.executable, "-c", USE]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if ">&-" in closed else "to stdout\n")
    assert done.stderr == ("" if "2>&-" in closed else "to stderr\n")


class Stream(io.TextIOWrapper):
    """Standard output as Python opens it under a locale of this encoding."""

    def __init__(self, encoding: str, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding, "strict")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def written(self) -> bytes:
        self.flush()
        return self.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8", "euc-jp"])
def test_a_program_that_reads_what_is_printed_gets_utf_8_whatever_the_locale(monkeypatch, encoding):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_in_utf8()
    print("Vögel 日本 \udcff", end="")
    assert stream.written() == "Vögel 日本 ".encode() + b"\xff"


@pytest.mark.parametrize(
    ("encoding", "stated", "expected"),
    [
        ("iso-8859-1", "", "Vögel \\u65e5".encode("latin-1")),
        ("ascii", "", "Vögel 日".encode()),
        ("ascii", "ascii", rb"V\xf6gel \u65e5"),
    ],
)
def test_a_terminal_and_pythonioencoding_keep_their_encoding_and_what_it_lacks_is_escaped(
    monkeypatch, encoding, stated, expected
):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    if stated:
        monkeypatch.setenv("PYTHONIOENCODING", stated)
    stream = Stream(encoding, terminal=True)
    monkeypatch.setattr(sys, "stdout", stream)
    print_in_utf8()
    print("Vögel 日", end="")
    assert stream.written() == expected


def test_a_handler_of_errors_that_is_stated_stays(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:replace")
    stream = Stream("ascii")
    stream.reconfigure(errors="replace")
    monkeypatch.setattr(sys, "stdout", stream)
    print_in_utf8()
    print("ö", end="")
    assert stream.written() == b"?"
