"""Requests are counted once, a little later."""

import asyncio

import pytest

from service.frontend.accounts import SETTLE_SECONDS, Accounts, Ended
from service.host.metric_memory import make_metric_memory
from service.metrics import Metrics, render

OK = 'gradless_requests_total{model="m",protocol="gradless",status="200"}'
IN_FLIGHT = 'gradless_requests_in_flight{model="m"}'


@pytest.fixture
def scene():
    """Accounts that know one model, and what the metrics say."""

    memory = make_metric_memory()

    def shown(name):
        lines = dict(line.rsplit(" ", 1) for line in render(memory)[0].decode().splitlines() if line[0] != "#")
        return float(lines[name])

    accounts = Accounts(Metrics("frontend-0", memory))
    accounts.open("m")
    return accounts, shown


def test_what_is_noted_is_written_when_nobody_waits_for_it(scene):
    accounts, shown = scene

    async def run():
        accounts.began("m")
        accounts.decoded("m", 0.1)
        accounts.ended(Ended("m", "gradless", 200, "", 0.2))
        before = shown(OK)
        async with asyncio.timeout(100 * SETTLE_SECONDS):
            while shown(OK) == before:
                await asyncio.sleep(SETTLE_SECONDS / 5)
        return before

    assert asyncio.run(run()) == 0
    assert shown(OK) == 1
    assert shown('gradless_request_duration_seconds_sum{model="m"}') == 0.2
    assert shown('gradless_stage_duration_seconds_sum{model="m",stage="decode"}') == 0.1


def test_who_shows_the_metrics_settles_first(scene):
    accounts, shown = scene

    async def run():
        accounts.began("m")
        accounts.began("m")
        accounts.settle()
        assert shown(IN_FLIGHT) == 2
        accounts.ended(Ended("m", "gradless", 200, "", 0.2))
        accounts.ended(Ended("m", "gradless", 503, "overloaded", 0.001))
        accounts.settle()
        accounts.settle()

    asyncio.run(run())
    assert shown(IN_FLIGHT) == 0
    assert shown(OK) == 1
    assert shown('gradless_requests_total{model="m",protocol="gradless",status="503"}') == 1
    assert shown('gradless_rejected_total{model="m",reason="overloaded"}') == 1
    assert shown('gradless_request_duration_seconds_count{model="m"}') == 2


def test_a_model_that_nobody_opened_is_opened_by_its_first_request(scene):
    accounts, shown = scene

    async def run():
        accounts.began("unknown")
        accounts.ended(Ended("unknown", "gradless", 404, "model_not_found", 0.001))
        accounts.settle()

    asyncio.run(run())
    assert shown('gradless_requests_total{model="unknown",protocol="gradless",status="404"}') == 1


def test_a_protocol_has_every_status_at_0_once_somebody_speaks_it_and_before_that_those_of_alerts():
    memory = make_metric_memory()

    def shown():
        lines = [line.rsplit(" ", 1) for line in render(memory)[0].decode().splitlines()]
        return {name: float(value) for name, value in lines if "requests_total{" in name and 'protocol="other"' in name}

    def count(status):
        return f'gradless_requests_total{{model="m",protocol="other",status="{status}"}}'

    async def run():
        accounts = Accounts(Metrics("frontend-0", memory), ["gradless", "other"])
        accounts.open("m")
        before = shown()
        accounts.began("m")
        accounts.ended(Ended("m", "other", 400, "unprocessable", 0.001))
        accounts.settle()
        return before

    before = asyncio.run(run())
    assert before == {count(status): 0 for status in (200, 500, 503, 504)}
    after = shown()
    assert after[count(400)] == 1
    assert after[count(200)] == after[count(422)] == 0
