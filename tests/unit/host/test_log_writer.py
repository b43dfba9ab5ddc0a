from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.host import log_writer
from service.host.log_writer import LogWriter
from tests.support.server import wait_for

#: A page at a time, so that whoever writes more at once than a pipe keeps whole is cut.
READ = select.PIPE_BUF


def notice(dropped: int) -> bytes:
    return b"%d dropped\n" % dropped


class Piped:
    """A writer and the pipe behind it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.writer = LogWriter(self.write_end)
        self.writer.start(notice)
        self.dropped = 0
        self.writer.tell_drops(self._count)

    def _count(self, lines: int) -> None:
        self.dropped += lines

    def fill(self, blocking: bool = True) -> None:
        """Leave no room in the pipe, and wait until the writer is stuck at it."""
        os.set_blocking(self.write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.write_end, b"." * select.PIPE_BUF)
        os.set_blocking(self.write_end, blocking)
        self.writer.put(b"." * select.PIPE_BUF)
        wait_for(lambda: self.writer._bytes == 0, 5, "a stuck writer")

    def read_all(self) -> bytes:
        """Read until the writer has nothing left to write."""
        found = b""
        done = threading.Event()
        flushing = threading.Thread(target=lambda: self.writer.flush(30) and done.set())
        flushing.start()
        while select.select([self.read_end], [], [], 0 if done.is_set() else 0.05)[0] or not done.is_set():
            if select.select([self.read_end], [], [], 0)[0]:
                found += os.read(self.read_end, READ)
        flushing.join()
        return found.lstrip(b".")


@pytest.fixture
def pipe():
    piped = Piped()
    yield piped
    with contextlib.suppress(OSError):
        os.close(piped.read_end)
    piped.writer.flush(5)
    os.close(piped.write_end)


def test_lines_come_out_whole_and_in_order(pipe):
    lines = [b"%d %s\n" % (number, b"x" * (number % 300)) for number in range(3000)]
    for line in lines:
        pipe.writer.put(line)
    assert pipe.read_all() == b"".join(lines)
    assert pipe.dropped == 0


def test_a_pipe_that_nobody_reads_takes_no_time_of_the_caller_and_its_flush_ends(pipe):
    pipe.fill()
    for _ in range(3 * log_writer.MOST_LINES):
        pipe.writer.put(b"line\n")
    assert not pipe.writer.flush(0.1)
    wait_for(lambda: pipe.dropped >= 2 * log_writer.MOST_LINES - 1, 5, "all drops told")


def test_the_notice_stands_where_lines_are_missing_and_the_next_ones_follow(pipe):
    pipe.fill()
    for number in range(log_writer.MOST_LINES + 2000):
        pipe.writer.put(b"%d\n" % number)
    found = pipe.read_all().splitlines()
    kept = len(found) - 1
    assert found == [b"%d" % number for number in range(kept)] + [b"%d dropped" % (log_writer.MOST_LINES + 2000 - kept)]
    assert kept >= log_writer.MOST_LINES
    pipe.writer.put(b"later\n")
    assert pipe.read_all() == b"later\n"
    assert pipe.dropped == log_writer.MOST_LINES + 2000 - kept


def test_what_waits_is_bounded_in_bytes_too(pipe):
    pipe.fill()
    line = b"x" * (log_writer.MOST_BYTES // 8 - 1) + b"\n"
    for _ in range(20):
        pipe.writer.put(line)
    wait_for(lambda: pipe.dropped >= 11, 5, "drops")  # one may be under way
    found = pipe.read_all()
    assert found.count(b"x\n") + pipe.dropped == 20
    assert len(found) < 1.5 * log_writer.MOST_BYTES
    pipe.writer.put(line)  # its bytes were given back
    assert pipe.read_all() == line


def test_what_could_not_be_written_is_counted_and_told_when_writing_goes_on(tmp_path):
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    full, good = os.open("/dev/full", os.O_WRONLY), os.dup(file)
    dropped = []
    writer = LogWriter(file)
    writer.start(notice)
    writer.tell_drops(dropped.append)
    os.dup2(full, file)
    for number in range(5):
        writer.put(b"%d\n" % number)
        assert writer.flush(5)
    wait_for(lambda: sum(dropped) == 5, 5, "drops")
    os.dup2(good, file)
    writer.put(b"again\n")
    assert writer.flush(5)
    assert (tmp_path / "log").read_bytes() == b"5 dropped\nagain\n"
    for descriptor in (file, full, good):
        os.close(descriptor)


def test_a_closed_descriptor_and_a_reader_that_is_gone_drop_lines_and_end_nothing(pipe):
    os.close(pipe.read_end)
    pipe.writer.put(b"nobody\n")
    assert pipe.writer.flush(5)
    wait_for(lambda: pipe.dropped == 1, 5, "a drop")
    pipe.writer.descriptor = 10**6
    pipe.writer.put(b"nowhere\n")
    assert pipe.writer.flush(5)
    wait_for(lambda: pipe.dropped == 2, 5, "a drop")


def test_a_line_that_was_cut_off_spoils_no_other(monkeypatch, pipe):
    write = os.write
    left = [5]

    def short(descriptor: int, data: bytes) -> int:
        if not left:
            return write(descriptor, data)
        if (room := left.pop()) == 0:
            raise OSError(28, "No space left on device")
        left.append(0)
        return write(descriptor, data[:room])

    monkeypatch.setattr(os, "write", short)
    pipe.writer.put(b"first line\n")
    assert pipe.writer.flush(5)
    pipe.writer.put(b"second line\n")
    assert pipe.read_all() == b"first\n1 dropped\nsecond line\n"


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(pipe):
    pipe.fill(blocking=False)
    lines = b"".join(b"%d\n" % number for number in range(500))
    for line in lines.splitlines(keepends=True):
        pipe.writer.put(line)
    assert not pipe.writer.flush(0.1)
    assert pipe.read_all() == lines


def test_two_writers_of_one_pipe_do_not_mix_their_lines(pipe):
    other = LogWriter(os.dup(pipe.write_end))
    other.start(notice)
    pipe.fill()
    for number in range(2000):
        pipe.writer.put(b"a%d%s\n" % (number, b"a" * 200))
        other.put(b"b%d%s\n" % (number, b"b" * 200))
    found = pipe.read_all()
    flushing = threading.Thread(target=other.flush, args=(5,))
    flushing.start()
    while flushing.is_alive() or select.select([pipe.read_end], [], [], 0)[0]:
        if select.select([pipe.read_end], [], [], 0.05)[0]:
            found += os.read(pipe.read_end, READ)
    os.close(other.descriptor)
    for letter in (b"a", b"b"):
        mine = [line for line in found.splitlines() if line[:1] == letter]
        assert mine == [b"%s%d%s" % (letter, number, letter * 200) for number in range(2000)]


def test_a_finalizer_that_logs_while_its_thread_logs_does_not_hang(pipe):
    class Line(bytes):
        def __len__(self) -> int:  # called in `put`, under its lock
            pipe.writer.put(b"inner\n")
            return super().__len__()

    pipe.writer.put(Line(b"outer\n"))
    assert sorted(set(pipe.read_all().splitlines())) == [b"inner", b"outer"]


def test_a_stream_writes_whole_lines_and_says_what_it_is(pipe):
    stream = pipe.writer.stream()
    print("a", 1, "\udc80", file=stream)
    print("later", end="", file=stream)
    assert pipe.read_all() == b"a 1 \\udc80\n"
    stream.flush()
    assert pipe.read_all() == b"later"
    assert stream.fileno() == pipe.write_end
    assert not stream.isatty()


CODE = """\
import sys
from service.host.log_writer import STDERR
from service.logs import configure_logs
from service.host.metric_memory import make_metric_memory
from service.metrics import Metrics, render
from service.settings import Settings
from tests.support.server import wait_for
configure_logs(Settings())
memory = make_metric_memory()
if sys.argv[1] == "drop":
    STDERR.descriptor = 10**6
    print("lost\\nlines", file=sys.stderr)
    STDERR.flush(5)
metrics = Metrics("one", memory)
STDERR.descriptor = 2
wanted = f"gradless_log_lines_dropped_total {2.0 if sys.argv[1] == 'drop' else 0.0}\\n"
wait_for(lambda: wanted in render(memory)[0].decode(), 5, wanted)
"""


@pytest.mark.parametrize("what", ["drop", "keep"])
def test_the_metric_is_there_from_the_start_and_has_what_was_dropped_before_it(what):
    command = [sys.executable, "-c", CODE, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["count"]) for line in told] == ([("log lines dropped", 2)] if what == "drop" else [])
