"""The sections of a run on a terminal, as Markdown, or as a page in one file."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table

from service.bench.results import Results
from service.bench.sections import sections


def show(results: Results, console: Console) -> None:
    """Print the sections on a terminal."""
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


#: Notes that a reader needs to read a table rightly.
NOTES = """\
Made by `make bench`. Every ratio is of one run, in which all take turns and one server at a time is awake (the others
are suspended); absolute rates belong to this machine and hour. Between any two measurements the bare loop runs: when
its median moved by more than 15 % from round to round, ratios are in brackets and conclude nothing.

- **The bare loop** is what people write by hand: decode, resize, forward, top five, in one process, with as many
  threads as the server takes, and as glibc's malloc comes. It runs three times: eager as a module comes (contiguous),
  eager in the memory format that the server measured to be fastest, and with the package that the server answers
  with, whoever made it: OpenVINO or AOTInductor. Gradless keeps freed memory (`service/host/allocator.py`), which is
  most of why it can be faster than the same forward in the bare loop. `--optimize eager` measures a server that
  compiles nothing.
- **In bfloat16**: the same model with `dtype = "bfloat16"` on its card, where the processor computes in that.
- **LitServe and mosec** do the same job with the same decoder, memory format, threads and largest batch; LitServe
  gets base64 in JSON, as in its guides. Both wait up to 5 ms for company. **The naive app** is FastAPI with PIL and a
  forward in its handler.
- The load generator shares the cores: `generator` is its own share of one core.
- `batch` is the mean number of examples in a forward; `CPU s/1,000` is CPU time of all processes of the server.
- Percentiles are over all answers of all rounds; rates are medians over the rounds.
- One client takes turns with the bare loop at batch 1: each turn is its median above that of the loop just before and
  just after, and the median of all turns is in the table."""


def as_markdown(results: Results, plot: str = "") -> str:
    """Return a page of documentation; `plot` is the path of a picture beside it."""
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
    """Return one HTML file with the plot and the style inside; `draw` writes the plot into a file of `folder`."""
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
