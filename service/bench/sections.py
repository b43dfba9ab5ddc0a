"""The content of a report: a run in words and tables, whatever they are rendered as."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.bench.results import MOST_MOVED, Load, Model, Results, clients_in_words

TITLES = {
    "gradless": "**Gradless**",
    "bfloat16": "**Gradless** in bfloat16",
    "open-inference": "**Gradless** by Open Inference Protocol",
    "naive": "naive FastAPI app",
    "litserve": "LitServe",
    "mosec": "mosec",
    "triton": "Triton",
}


@dataclass
class Section:
    """A title, words, a table whose first row is its headings, and words after it."""

    title: str
    words: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def sections(results: Results) -> list[Section]:
    """Return the whole report, in order."""
    told = [_ratios(results)]
    for model in results.models:
        told.append(_throughput(model))
        if model.alone:
            told.append(_alone(model))
        if model.open_loop:
            told.append(_open_loop(model))
    told.append(_machine(results))
    return told


def _ratios(results: Results) -> Section:
    section = Section("Ratios", rows=[["", *(model.name for model in results.models)]])
    ratios = {model.name: model.ratios() for model in results.models}
    for name in dict.fromkeys(name for told in ratios.values() for name in told):
        cells = [_ratio(model, ratios[model.name].get(name)) for model in results.models]
        section.rows.append([name, *cells])
    for model in results.models:
        moved = f"{model.name}: between the rounds the bare loop moved by {model.moved:.0%}"
        verdict = "." if model.is_conclusive else f", more than {MOST_MOVED:.0%}: **no conclusion**."
        section.after.append(moved + verdict)
        if model.over_bare_ms:
            turns = ", ".join(f"{turn:+.2f}" for turn in sorted(model.over_bare_ms))
            section.after.append(f"{model.name}: one client's turns, ms over the bare loop's: {turns}.")
    return section


def _ratio(model: Model, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if model.is_conclusive else f"({value:.2f})"


def _throughput(model: Model) -> Section:
    body = f"JPEGs of {model.body_bytes:,} bytes" if model.body_bytes else model.bodies
    threads = "1 thread" if model.threads == 1 else f"{model.threads} threads"
    runs = f"runs {model.forwards[-1]}, " if model.bare else ""
    out = "top five" if "JPEG" in body else "JSON"
    words = [f"{body} in, {out} out; the server {runs}{threads}. Times in milliseconds."]
    headings = ["", "examples/s", "p50", "p90", "p99", "p99.9", "max", "batch", "CPU s/1,000", "generator", "failed"]
    section = Section(f"{model.name}: throughput and latency", words, [headings])
    for bare in model.bare:
        section.rows.append(
            [f"bare loop ({bare.forward}), batch {bare.batch_size}", f"{bare.rate:.1f}", f"{bare.batch_ms:.1f}"]
            + [""] * 8
        )
    for name, loads in model.servers.items():
        section.rows += [_row(f"{TITLES[name]}, {clients_in_words(load.clients)}", load) for load in loads]
    if model.tail:
        section.rows.append(_row(f"{TITLES['gradless']}, {model.tail.clients} clients, a long run", model.tail))
    section.after += [words for words in (_stages(model), _processes(model)) if words]
    return section


def _row(title: str, load: Load) -> list[str]:
    latency = load.latency_ms
    return [
        title,
        f"{load.rate:.1f}",
        *(f"{latency[name]:.1f}" for name in ("p50", "p90", "p99", "p99.9", "max")),
        _or_empty(load.mean_batch, ".1f"),
        f"{sum(load.cpu_seconds_per_1000.values()):.1f}" if load.cpu_seconds_per_1000 else "",
        f"{load.generator_cores:.0%}",
        ", ".join(f"{count} x {kind}" for kind, count in load.kinds.items() if kind != "200") or "0",
    ]


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _stages(model: Model) -> str:
    """Say where the time of one client's request goes, from `Server-Timing`."""
    load = model.load("gradless", 1)
    if not load.stages_ms:
        return ""
    total = load.stages_ms.get("total", 0.0)
    known = {stage: ms for stage, ms in load.stages_ms.items() if stage != "total"}
    told = ", ".join(f"{stage} {ms:.2f}" for stage, ms in known.items())
    rest = total - sum(known.values())
    return (
        f"Where one client's {load.latency_ms['p50']:.1f} ms go, as the server tells it: {told}, the rest {rest:.2f}."
    )


def _processes(model: Model) -> str:
    """Say which processes spend the CPU time of a thousand examples."""
    load = model.best("gradless")
    total = sum(load.cpu_seconds_per_1000.values())
    told = sorted(load.cpu_seconds_per_1000.items(), key=lambda each: -each[1])
    words = ", ".join(f"{title} {seconds:.2f}" for title, seconds in told if seconds >= 0.005)
    clients = clients_in_words(load.clients)
    return f"Where the {total:.1f} CPU seconds of a thousand examples go, {clients}: {words}." if words else ""


def _alone(model: Model) -> Section:
    """Show every candidate's forward, and its share of the machine's peak."""
    found = model.alone
    assert found
    sizes = sorted(next(iter(found.seconds.values())))
    words = [
        "Examples/s of every candidate by batch size, without a server, as measured when the model was compiled, which "
        f"may have been in another hour. An example takes {found.flops / 1e9:.2f} GFLOP; a large float32 convolution "
        f"gets {found.peak_flops / 1e9:.0f} GFLOP/s here."
    ]
    section = Section(f"{model.name}: the forward alone", words, [["", *map(str, sizes), "GFLOP/s", "of that"]])
    for name, seconds in found.seconds.items():
        rates = [f"{size / seconds[size]:.1f}" for size in sizes]
        section.rows.append([name, *rates, f"{found.rate(name) * found.flops / 1e9:.0f}", f"{found.share(name):.0%}"])
    return section


def _open_loop(model: Model) -> Section:
    found = model.open_loop
    assert found
    words = [
        f"Poisson arrivals, capacity {found.capacity:.1f}/s (32 closed-loop clients just before). A latency counts "
        "from the moment the request was meant to leave. `sent late` is the load generator's own delay, p99."
    ]
    headings = [
        "offered",
        "of capacity",
        "answered",
        "p50",
        "p99",
        "p99.9",
        "max",
        "refused",
        "refusal p50",
        "sent late",
    ]
    section = Section(f"{model.name}: arrivals that wait for nobody", words, [headings])
    for step in found.steps:
        refused = sum(count for kind, count in step.kinds.items() if kind != "200")
        section.rows.append(
            [
                f"{step.offered:.1f}/s",
                f"{step.share:.0%}",
                f"{step.answered:.1f}/s",
                *(f"{step.latency_ms[name]:.1f}" for name in ("p50", "p99", "p99.9", "max")),
                str(refused),
                _or_empty(step.refusal_ms.get("p50"), ".1f"),
                f"{step.late_ms:.1f}",
            ]
        )
    section.after.append(f"Knee: up to {found.knee:.1f}/s all is answered and the queue does not grow.")
    return section


def _machine(results: Results) -> Section:
    rows = [["", ""]] + [[name, value] for name, value in results.machine.items()]
    rows += [["date", results.date], ["commit", results.commit], ["command", f"`{results.command}`"]]
    for model in results.models:
        rows += [
            [f"memory of {name}, {model.name}", f"{size >> 20} MiB (PSS)"] for name, size in model.pss_bytes.items()
        ]
        rows += [
            [f"start of {name}, {model.name}", f"{seconds:.2f} s to the first answer"]
            for name, seconds in model.started_in.items()
        ]
    return Section("What it was measured on", rows=rows)
