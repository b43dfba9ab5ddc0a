from pathlib import Path

import pytest
from prometheus_client import mmap_dict

from service.metrics import Metrics, render


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """The metrics as they read whenever a process has just opened a file of its own and not written to it."""
    read = []

    def open_and_read(name, mode):
        file = Path(name).open(mode)  # noqa: SIM115 - the library closes it
        if "a" in mode:
            read.append(render(tmp_path)[0].decode())
        return file

    monkeypatch.setattr(mmap_dict, "open", open_and_read, raising=False)
    return read


def test_the_metrics_can_be_read_while_a_process_makes_its_files(opened, tmp_path):
    first = Metrics("engine-0", tmp_path)
    first.requests.labels("flowers", "gradless", "200").inc()
    first.batch_size.labels("flowers").observe(3)
    first.queue_depth.labels("flowers").set(2)
    first.batch_cap.labels("flowers").set(8)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "counter_engine-0.db",
        "gauge_livemostrecent_engine-0.db",
        "gauge_livesum_engine-0.db",
        "histogram_engine-0.db",
    ]
    assert len(opened) == 4  # read each time, without an error


def test_a_new_process_of_a_role_counts_on_and_drops_the_gauges_of_the_dead(opened, tmp_path):
    dead = Metrics("engine-0", tmp_path)
    dead.requests.labels("flowers", "gradless", "200").inc()
    dead.queue_depth.labels("flowers").set(2)
    before = render(tmp_path)[0].decode()
    assert 'gradless_queue_depth{model="flowers"} 2.0' in before
    Metrics("engine-0", tmp_path).requests.labels("flowers", "gradless", "200").inc()
    after = render(tmp_path)[0].decode()
    assert "gradless_queue_depth" not in after
    assert 'gradless_requests_total{model="flowers",protocol="gradless",status="200"} 2.0' in after
