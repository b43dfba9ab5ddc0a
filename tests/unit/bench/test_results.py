"""What a run concludes, and when it refuses to."""

from __future__ import annotations

import pytest

from service.bench.measurement import percentiles
from service.bench.rendering import as_markdown
from service.bench.results import Alone, Bare, Load, Model, OpenLoop, Results, Step
from service.bench.sections import sections
from service.bench.turns import knee


def load(clients: int, rate: float, p50: float, **failures: int) -> Load:
    latency = {"p50": p50, "p90": p50, "p99": 2 * p50, "p99.9": 3 * p50, "max": 4 * p50}
    return Load(
        clients,
        rate,
        latency,
        {"200": 100} | failures,
        {"decode": 1.0, "total": 3.0},
        {"engine": 4.0, "front end": 1.0},
        2.0,
        0.1,
    )


def step(offered: float, p50: float, **failures: int) -> Step:
    latency = {"p50": p50, "p90": p50, "p99": 2 * p50, "p99.9": p50, "max": p50}
    return Step(offered, offered / 100, offered, latency, {"200": 9} | failures, {}, 0.1)


@pytest.fixture
def model() -> Model:
    model = Model("m", "channels_last", 2, 0, canary=[[100, 101], [104, 90, 103]])
    model.bare = [Bare("eager, contiguous_format", 1, 40, 25.0), Bare("eager, contiguous_format", 8, 60, 133.0)]
    model.bare += [Bare("compiled", 1, 50, 20.0), Bare("compiled", 8, 80, 100.0)]
    model.servers = {"gradless": [load(1, 45, 21.5), load(8, 120, 60)], "naive": [load(1, 30, 43), load(8, 40, 150)]}
    model.over_bare_ms = [0.5, 9.0, 1.25]
    model.pss_bytes = {"gradless": 1000, "naive": 800}
    model.started_in = {"gradless": 6.0, "floor": 4.0}
    model.alone = Alone({"eager, contiguous_format": {1: 0.02, 8: 0.1}, "openvino": {1: 0.01, 8: 0.04}}, 2e9, 1e12)
    model.open_loop = OpenLoop(100, [step(20, 20), step(80, 30)], 80)
    return model


def test_every_ratio_is_of_the_best_with_the_best_and_of_one_client_with_one(model):
    ratios = model.ratios()
    assert ratios["served / bare loop at its best batch: eager, contiguous_format"] == 120 / 60
    assert ratios["served / bare loop at its best batch: compiled"] == 120 / 80
    assert ratios["one client: ms over the bare loop's at batch 1, of what is served"] == 1.25
    assert ratios["served / naive, each at its best"] == 3.0
    assert ratios["one client: median / naive's"] == 0.5
    assert ratios["memory (PSS of the tree) / naive app's"] == 1.25
    assert ratios["start / import, load and one forward"] == 1.5
    assert ratios["80 % of capacity, open loop: p99 / bare loop at batch 1"] == 3.0


def test_the_machine_has_moved_by_what_the_medians_of_rounds_differ(model):
    assert model.moved == pytest.approx((103 - 100.5) / 101.75)
    assert model.is_conclusive
    model.canary.append([80, 81, 82])
    assert not model.is_conclusive
    text = as_markdown(Results("c", "d", "e", {}, [model]))
    assert "**no conclusion**" in text
    assert "| (1.50) |" in text


def test_a_forward_is_held_against_a_large_product(model):
    assert model.alone.rate("openvino") == 200
    assert model.alone.share("openvino") == 0.4
    text = as_markdown(Results("c", "d", "e", {}, [model]))
    assert "| openvino | 100.0 | 200.0 | 400 | 40% |" in text


def test_what_is_served_in_bfloat16_is_held_against_the_eager_loop_in_float32(model):
    assert not any("bfloat16" in name for name in model.ratios())
    model.servers["bfloat16"] = [load(1, 90, 10), load(32, 180, 150)]
    assert model.ratios()["in bfloat16: served / bare loop at its best batch: eager, contiguous_format"] == 3.0


def test_who_spent_the_processor_is_told_of_the_best_load(model):
    text = as_markdown(Results("c", "d", "e", {}, [model]))
    assert "5.0 CPU seconds of a thousand examples go, 8 clients: engine 4.00, front end 1.00." in text


def test_a_failure_of_the_servers_is_counted_and_a_peers_is_not(model):
    results = Results("c", "d", "e", {}, [model])
    assert results.failures == 0
    model.servers["naive"].append(load(32, 1, 1, **{"500": 3}))
    assert results.failures == 0
    model.servers["gradless"].append(load(32, 1, 1, **{"503": 2, "closed": 1}))
    assert results.failures == 3
    model.servers["bfloat16"] = [load(32, 1, 1, **{"504": 1})]
    assert results.failures == 4


def test_the_knee_is_the_last_rate_at_which_the_queue_does_not_grow():
    steps = [step(20, 10), step(60, 15), step(90, 29), step(100, 45), step(120, 900)]
    assert knee(steps) == 90
    steps[2].kinds["503"] = 1
    assert knee(steps) == 60


def test_percentiles_are_by_nearest_rank():
    told = percentiles([float(n) for n in range(1, 1001)])
    assert told == {"p50": 500.0, "p90": 900.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}
    assert percentiles([]) == {}


def test_every_row_of_a_table_has_as_many_cells_as_headings(model):
    for section in sections(Results("c", "d", "e", {"cores": "2"}, [model])):
        assert {len(row) for row in section.rows} == {len(section.rows[0])}, section.title
