"""Output of `gradless predict` and `gradless check`: a table for a person, JSON or CSV for a program."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from service.commands import check
from service.commands.predict import FilePredictions
from service.loader.report import Finding
from service.supervisor import summary

#: The most characters of an output in a table.
_MOST_SHOWN = 60


def print_table(outcome: FilePredictions) -> None:
    table = Table(title=f"{outcome.model} {outcome.version}", title_justify="left")
    classes = _are_classes(outcome)
    table.add_column("file", overflow="fold")
    table.add_column("class" if classes else "name")
    table.add_column("probability" if classes else "value", justify="right")
    for file in outcome.predictions:
        if file.error:
            table.add_row(file.source, f"[red]{file.error}[/red]", "", end_section=True)
        rows = list(_rows(file.prediction or {}))
        for rank, row in enumerate(rows):
            table.add_row("" if rank else file.source, *row, end_section=rank == len(rows) - 1)
    Console().print(table)


def _are_classes(outcome: FilePredictions) -> bool:
    """Return whether predictions are classes, which they are also where there is none."""
    return not any({"values", "outputs"} & (file.prediction or {}).keys() for file in outcome.predictions)


def _rows(prediction: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names with what they stand for."""
    for found in prediction.get("classes", ()):
        yield found["label"], f"{found['probability']:.1%}"
    for name, number in prediction.get("values", {}).items():
        yield name, f"{number:.6g}"
    for name, nested in prediction.get("outputs", {}).items():
        text = json.dumps(nested)
        yield name, text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} …"


def print_check(outcome: check.CheckOutcome, verbose: bool) -> None:
    """Print a line a model, and what broke under it; with `verbose` also what each rule saw, and each control."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(title=f"Proof on {outcome.device}", title_justify="left")
    for heading in ("model", "version", "verdict", "rules", "in company", "sizes", "seconds"):
        table.add_column(heading, justify="left" if heading in ("model", "version", "verdict") else "right")
    for model in outcome.models:
        table.add_row(*_verdict(model))
    console.print(table)
    for model in outcome.models:
        for line in _findings(model, verbose):
            console.print(line, markup=False, soft_wrap=not sys.stdout.isatty())  # a log's reader searches whole lines
    _print_controls(console, outcome, verbose)


def _verdict(model: check.Checked) -> tuple[str, ...]:
    report = model.report
    if report is None:
        words = "card is wrong" if model.wrong else "could not be run"
        return (model.model, model.version, f"[red]{words}[/red]", "", "", "", "")
    verdict = "[red]refused[/red]" if not report.passed else "waived" if report.waivers else "[green]proven[/green]"
    verdict += "".join(f", {_coloured(finding)}" for finding in report.findings if finding.level != "refused")
    return (
        model.model,
        model.version,
        f"{verdict}, inconclusive" if report.is_inconclusive else verdict,
        f"{sum(rule.passed for rule in report.rules)} of {len(report.rules)}",
        f"{report.figures.largest_difference:.1e}",
        " ".join(map(str, report.figures.sizes)),
        f"{report.figures.seconds:.2f}",
    )


def _coloured(finding: Finding) -> str:
    colour = "red" if finding.level == "severe" else "yellow"
    return f"[{colour}]{finding.name}[/{colour}]"


def _findings(model: check.Checked, verbose: bool) -> Iterator[str]:
    if model.error:
        yield f"{model.model}: {model.error}"
    if model.optimization:
        proof = f", {summary.said(model.package)}" if model.package else ""
        yield f"{model.model}: {model.optimization.state}: {model.optimization.detail}{proof}"
    for rule in model.package.rules if model.package else ():
        if not rule.passed and not rule.waived:
            yield f"{model.model}, its package: {rule.rule}: broken: {rule.detail}"
    for finding in model.report.findings if model.report else ():
        yield f"{model.model}: {finding.name}: {finding.level}: {finding.detail}"
    if model.report and (found := model.report.precision):
        yield (
            f"{model.model}: in {found.dtype} probabilities differ from float32's by up to "
            f"{found.probability_difference:.1e}, {found.same_classes} of {found.inputs} classes are the same"
        )
    for rule in model.report.rules if model.report else ():
        if verbose or not rule.passed:
            word = "holds" if rule.passed else "waived" if rule.waived else "broken"
            reason = f" Waived: {rule.waived}." if rule.waived else ""
            yield f"{model.model}: {rule.rule}: {word}: {rule.detail}{reason}"
    if model.report and model.report.is_inconclusive and not verbose:
        yield f"{model.model}: batch-invariant: inconclusive: {model.report.inconclusive}"


def _print_controls(console: Console, outcome: check.CheckOutcome, verbose: bool) -> None:
    """Print the proof of the proof: models that are wrong on purpose, and sound ones that look odd."""
    if not outcome.controls:
        console.print("Controls: not run; fix what is wrong first")
        return
    wrong = [control for control in outcome.controls if control.breaks]
    sound = [control for control in outcome.controls if not control.breaks]
    counts = [f"{sum(c.caught for c in group)} of {len(group)}" for group in (wrong, sound)]
    words = f"{counts[0]} broken ones caught, each by exactly its rules; {counts[1]} sound ones pass."
    console.print(f"Controls: {words}")
    for control in outcome.controls:
        if verbose or not control.caught:
            said = ", ".join(control.broken) or "nothing"
            wanted = "" if control.caught else f"; it must break {', '.join(control.breaks) or 'nothing'}"
            console.print(f"  {control.name}: breaks {said}{wanted}", markup=False)


def print_json(outcome: FilePredictions) -> None:
    """Print JSON as the server answers, with each file's name beside its prediction."""
    answer = {"model": outcome.model, "version": outcome.version}
    found = [{"file": each.source} | (each.prediction or {"error": each.error}) for each in outcome.predictions]
    json.dump(answer | {"predictions": found}, sys.stdout, indent=2)
    print()


def print_csv(outcome: FilePredictions) -> None:
    """Print a line a class, value or output; a file that could not be read has one line, with its error."""
    writer = csv.writer(sys.stdout)
    classes = _are_classes(outcome)
    writer.writerow(["file", *(("rank", "id", "label", "probability") if classes else ("name", "value")), "error"])
    for file in outcome.predictions:
        if file.error:
            writer.writerow([file.source, *([""] * (4 if classes else 2)), file.error])
        prediction = file.prediction or {}
        for rank, found in enumerate(prediction.get("classes", ()), 1):
            writer.writerow([file.source, rank, found["id"], found["label"], f"{found['probability']:.7g}", ""])
        for name, value in [*prediction.get("values", {}).items(), *prediction.get("outputs", {}).items()]:
            writer.writerow([file.source, name, json.dumps(value), ""])
