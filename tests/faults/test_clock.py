"""Row C7 of the fault matrix: the clock on the wall is set back, and forward, under load (libfaketime)."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from tests.support.models import direct
from tests.support.server import Server, wait_for
from tests.support.traffic import Traffic

LIBRARIES = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]


class Clock:
    """What the server's processes take for the time of day."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.replace(self._file)


def told_times(server: Server) -> list[datetime.datetime]:
    lines = [json.loads(line) for line in list(server.log) if line.startswith("{")]
    return [datetime.datetime.fromisoformat(line["timestamp"]) for line in lines if line.get("event") == "request"]


@pytest.mark.skipif(not LIBRARIES, reason="Debian's package libfaketime is not installed")
def test_c7_a_clock_that_is_set_back_or_forward_makes_nothing_time_out(serve, two_models, tmp_path):
    clock = Clock(tmp_path)
    flags = ("--default-model", "one", "--access-log", "--watchdog-seconds", "3")
    server = serve(two_models, *flags, environment=clock.environment)
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        for offset in ("-1h", "+1h", "+0"):
            clock.set(offset)
            traffic.wait_for_answers(50)
            wait_for(lambda: abs(hours_off(server) - float(offset.rstrip("h"))) < 0.1, 10, "the clock to be seen")  # noqa: B023
    traffic.assert_all_right(direct(two_models, "one"))
    assert server.metric("gradless_engine_restarts_total") == 0
    assert server.is_ready()
    print(f"{len(traffic.answers)} answered while the clock went an hour back, two forward and one back")


def hours_off(server: Server) -> float:
    """How far the server's last line of its log is from the true time."""
    return (told_times(server)[-1] - datetime.datetime.now(datetime.UTC)).total_seconds() / 3600
