"""A run in words and tables, once; printed on a terminal, written as Markdown or as a page in one file."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table

from service.bench.results import MOST_MOVED, Load, Model, Results

TITLES = {
    "gradless": "**Gradless**",
    "bfloat16": "**Gradless** in bfloat16",
    "naive": "naive FastAPI app",
    "litserve": "LitServe",
    "mosec": "mosec",
}


@dataclass
class Section:
    """A heading, words, a table (its first row are the headings), and words after it."""

    title: str
    words: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def sections(results: Results) -> list[Section]:
    """Everything that is told, in order."""
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
    body = (
        f"JPEGs of {model.body_bytes:,} bytes" if model.body_bytes else "JPEGs of 13 to 100 KB, 320 to 800 pixels wide,"
    )
    threads = "1 thread" if model.threads == 1 else f"{model.threads} threads"
    runs = f"runs {model.forwards[-1]}, " if model.bare else ""
    words = [f"{body} in, top five out; the server {runs}{threads}. Times in milliseconds."]
    headings = ["", "pictures/s", "p50", "p90", "p99", "p99.9", "max", "batch", "CPU s/1,000", "generator", "failed"]
    section = Section(f"{model.name}: throughput and latency", words, [headings])
    for bare in model.bare:
        section.rows.append(
            [f"bare loop ({bare.forward}), batch {bare.batch_size}", f"{bare.rate:.1f}", f"{bare.batch_ms:.1f}"]
            + [""] * 8
        )
    for name, loads in model.servers.items():
        section.rows += [_row(f"{TITLES[name]}, {_clients(load.clients)}", load) for load in loads]
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


def _clients(number: int) -> str:
    return "1 client" if number == 1 else f"{number} clients"


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _stages(model: Model) -> str:
    """Where the time of one client's request goes, as `Server-Timing` tells it."""
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
    """Who spends the CPU time of a thousand pictures."""
    load = model.best("gradless")
    total = sum(load.cpu_seconds_per_1000.values())
    told = sorted(load.cpu_seconds_per_1000.items(), key=lambda each: -each[1])
    words = ", ".join(f"{title} {seconds:.2f}" for title, seconds in told if seconds >= 0.005)
    clients = _clients(load.clients)
    return f"Where the {total:.1f} CPU seconds of a thousand pictures go, {clients}: {words}." if words else ""


def _alone(model: Model) -> Section:
    """Every candidate's forward, and how far it is from what the machine could do."""
    found = model.alone
    assert found
    sizes = sorted(next(iter(found.seconds.values())))
    words = [
        "Pictures/s of every candidate by batch size, without a server, as measured when the model was compiled, which "
        f"may have been in another hour. A picture takes {found.flops / 1e9:.2f} GFLOP; a large float32 convolution "
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


def show(results: Results, console: Console) -> None:
    """On a terminal."""
    for section in sections(results):
        table = Table(title=section.title, title_justify="left", title_style="bold")
        for column, heading in enumerate(section.rows[0]):
            table.add_column(heading, justify="right" if column else "left")
        for row in section.rows[1:]:
            table.add_row(*(_plain(cell) for cell in row))
        for words in section.words:
            console.print(_plain(words), highlight=False)
        console.print(table)
        for words in section.after:
            console.print(_plain(words), highlight=False)
        console.print()


def _plain(text: str) -> str:
    return text.replace("**", "").replace("`", "")


#: What a reader has to know to read a table rightly.
NOTES = """\
Made by `make bench`. Every ratio is of one run, in which all take turns and one server at a time is awake (the others
are suspended); absolute rates belong to this machine and hour. Between any two measurements the bare loop runs: when
its median moved by more than 15 % from round to round, ratios are in brackets and conclude nothing.

- **The bare loop** is what people write by hand: decode, resize, forward, top five, in one process, with as many
  threads as the server takes, and as glibc's malloc comes. It runs three times: eager as a module comes (contiguous),
  eager in the memory format that the server measured to be fastest, and with the package that the server answers
  with, whoever made it: OpenVINO or AOTInductor. Gradless keeps freed memory (`service/allocator.py`), which is most
  of why it can be faster than the same forward in the bare loop. `--optimize eager` measures a server that compiles
  nothing.
- **In bfloat16**: the same model with `dtype = "bfloat16"` on its card, where the processor computes in that.
- **LitServe and mosec** do the same job with the same decoder, memory format, threads and largest batch; LitServe
  gets base64 in JSON, as in its guides. Both wait up to 5 ms for company. **The naive app** is FastAPI with PIL and a
  forward in its handler.
- The load generator shares the cores: `generator` is its own share of one core.
- `batch` is the mean number of pictures in a forward; `CPU s/1,000` is CPU time of all processes of the server.
- Percentiles are over all answers of all rounds; rates are medians over the rounds.
- One client takes turns with the bare loop at batch 1: each turn is its median above that of the loop just before and
  just after, and the median of all turns is in the table."""


def as_markdown(results: Results, plot: str = "") -> str:
    """A page of documentation; `plot` is the path of a picture beside it."""
    lines = ["# Performance", "", NOTES, ""]
    lines += [f"![Throughput, stages, batch sizes and latency under load]({plot})", ""] if plot else []
    for section in sections(results):
        lines += [f"## {section.title}", ""]
        for words in section.words:
            lines += [words, ""]
        headings, *rows = section.rows
        lines += [_md_row(headings), _md_row(["---", *["---:"] * (len(headings) - 1)]), *map(_md_row, rows), ""]
        for words in section.after:
            lines += [words, ""]
    return "\n".join(lines).rstrip() + "\n"


def _md_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse } img { max-width: 100% }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid #ddd } td:first-child { text-align: left }
"""


def as_page(results: Results, draw: Callable[[Path], None], folder: Path) -> str:
    """One HTML file with the plot and the style inside; `draw` writes the plot into a file of `folder`."""
    picture = folder / "plot.png"
    draw(picture)
    image = base64.b64encode(picture.read_bytes()).decode()
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>gradless bench</title>',
        f"<style>\n{_STYLE}</style>\n<h1>gradless bench, {escape(results.date)}</h1>",
        f'<img alt="throughput and latency" src="data:image/png;base64,{image}">',
    ]
    for section in sections(results):
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [f"<p>{_html(words)}</p>" for words in section.words]
        head, *rows = section.rows
        parts.append("<table>" + _html_row("th", head) + "".join(_html_row("td", row) for row in rows) + "</table>")
        parts += [f"<p>{_html(words)}</p>" for words in section.after]
    return "\n".join([*parts, "</html>\n"])


def _html_row(tag: str, cells: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_html(cell)}</{tag}>" for cell in cells) + "</tr>\n"


def _html(text: str) -> str:
    return escape(_plain(text))
