"""`gradless bench`: measure the server, the bare loop and the alternatives, in one run."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from service.bench.choice import bench_models
from service.bench.machine import commit, machine, now
from service.bench.plots import draw
from service.bench.rendering import as_markdown, as_page, show
from service.bench.results import Results
from service.bench.servers import PEERS
from service.bench.turns import Bench, Plan
from service.errors import ConfigurationError
from service.settings import Settings


def run(plan: Plan, models: dict[str, Path]) -> Results:
    """Measure these models, one after the other.

    Raises:
        ConfigurationError: a server does not start.
    """
    results = Results(" ".join(["gradless", *sys.argv[1:]]), now(), commit(), machine())
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for position, (name, folder) in enumerate(models.items()):
            task = progress.add_task(name, total=None)

            def say(words: str, task=task, name=name) -> None:  # type: ignore[no-untyped-def]
                progress.update(task, description=f"{name}: {words}")

            results.models.append(Bench(plan, name, folder, say).run(first=position == 0))
            progress.update(task, total=1, completed=1, description=name)
    return results


def bench(
    settings: Settings,
    models: list[str],
    seconds: float,
    rounds: int,
    peers: bool,
    url: str,
    as_json: bool,
    plot: Path | None,
    report: Path | None,
) -> int:
    """Measure, print, and write what is asked for; return the exit code."""
    if url and not models:
        raise ConfigurationError(["--url needs --model: a model that the server there has, and this folder of models"])
    plan = Plan(settings, seconds, rounds, PEERS if peers and not url else (), url)
    results = run(plan, bench_models(settings, models))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(results)).decode())
    else:
        show(results, Console(width=None if sys.stdout.isatty() else 150))
    if plot:
        draw(results, plot)
    if report:
        write(results, report, plot)
    return 1 if results.failures or not all(model.is_conclusive for model in results.models) else 0


def write(results: Results, file: Path, plot: Path | None) -> None:
    """Write Markdown, which shows the plot if there is one, or HTML, which has its own plot, by the file's suffix.

    Raises:
        ConfigurationError: it has another suffix, or cannot be written.
    """
    if file.suffix not in (".md", ".html"):
        raise ConfigurationError.at("--report", str(file), "is neither .md nor .html", "name a file that ends so")
    with tempfile.TemporaryDirectory() as folder:
        if file.suffix == ".md":
            text = as_markdown(results, os.path.relpath(plot, file.parent) if plot else "")
        else:
            text = as_page(results, lambda picture: draw(results, picture), Path(folder))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        words = error.strerror or str(error)
        raise ConfigurationError.at("--report", str(file), words, "name a file in a folder that is there") from error
