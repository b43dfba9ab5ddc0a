"""The modes of an audit as a page that loads nothing from elsewhere."""

from __future__ import annotations

from html import escape
from pathlib import Path

from service.audit.figures import Audit, ModeFigures, megabytes, number, yes
from service.errors import ConfigurationError

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
th:first-child, td:first-child, td.words { text-align: left }
td.words { color: #444; min-width: 18rem }
.bar { background: #1f5fa8; height: .4rem; margin-left: auto }
"""
_HEADINGS = (
    *("mode", "graph nodes", "saved tensors", "saved", "kept alive", "peak", "latency", "ratio"),
    *("difference", "BatchNorm moved", "repeatable", "backward()", "gradients", ""),
)


def write_page(audit: Audit, file: Path) -> None:
    """One HTML file with its style inside.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    most = max([row.held_bytes or 0 for row in audit.modes] + [1])
    title = f"{audit.model}: gradient modes, batch of {audit.batch_size} on {audit.device}"
    headings = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = "\n".join(_row(row, most) for row in audit.modes)
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        f"<p>{megabytes(audit.weights_bytes)} of weights. Each mode ran in a process of its own.</p>\n"
        f"<table>\n<tr>{headings}</tr>\n{rows}\n</table>\n</html>\n"
    )
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        words = error.strerror or str(error)
        raise ConfigurationError.at("--html", str(file), words, "name a file in a folder that is there") from error


def _row(row: ModeFigures, most: int) -> str:
    share = 100 * (row.held_bytes or 0) / most
    cells = [
        *(number(row.graph_nodes), number(row.saved_tensors), megabytes(row.saved_bytes)),
        f'{megabytes(row.held_bytes)}<div class="bar" style="width:{share:.1f}%"></div>',
        *(megabytes(row.peak_bytes), number(row.latency_ms, ".1f", " ms"), number(row.latency_ratio, ".2f")),
        *(number(row.max_difference, ".1e"), yes(row.batchnorm_changed), yes(row.repeatable), yes(row.backward)),
        f"{len(row.gradients)} of {row.parameters}",
    ]
    filled = "".join(f"<td>{cell}</td>" for cell in [escape(row.mode), *cells])
    return f'<tr>{filled}<td class="words">{escape(row.words)}</td></tr>'
