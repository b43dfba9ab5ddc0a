"""What `gradless predict` and `gradless check` print: a table for a person, JSON or CSV for a program."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from service import check, summary
from service.offline import Outcome


def print_table(outcome: Outcome) -> None:
    table = Table(title=f"{outcome.model} {outcome.version}", title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("class")
    table.add_column("probability", justify="right")
    for prediction in outcome.predictions:
        if prediction.error:
            table.add_row(prediction.source, f"[red]{prediction.error}[/red]", "", end_section=True)
        for rank, (_, label, probability) in enumerate(prediction.classes):
            last = rank == len(prediction.classes) - 1
            table.add_row("" if rank else prediction.source, label, f"{probability:.1%}", end_section=last)
    Console().print(table)


def print_check(outcome: check.Outcome, verbose: bool) -> None:
    """A line a model, what broke under it; with `verbose` what each rule saw, and each control."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(title=f"Proof on {outcome.device}", title_justify="left")
    for heading in ("model", "version", "verdict", "rules", "in company", "sizes", "seconds"):
        table.add_column(heading, justify="left" if heading in ("model", "version", "verdict") else "right")
    for model in outcome.models:
        table.add_row(*_verdict(model))
    console.print(table)
    for model in outcome.models:
        for line in _findings(model, verbose):
            console.print(line, markup=False)
    _print_controls(console, outcome, verbose)


def _verdict(model: check.Checked) -> tuple[str, ...]:
    report = model.report
    if report is None:
        return (model.model, model.version, "[red]could not be run[/red]", "", "", "", "")
    verdict = "[red]refused[/red]" if not report.passed else "waived" if report.waivers else "[green]proven[/green]"
    return (
        model.model,
        model.version,
        f"{verdict}, inconclusive" if report.inconclusive else verdict,
        f"{sum(rule.passed for rule in report.rules)} of {len(report.rules)}",
        f"{report.figures.largest_difference:.1e}",
        " ".join(map(str, report.figures.sizes)),
        f"{report.figures.seconds:.2f}",
    )


def _findings(model: check.Checked, verbose: bool) -> Iterator[str]:
    if model.error:
        yield f"{model.model}: {model.error}"
    if model.optimization:
        proof = f", {summary.said(model.package)}" if model.package else ""
        yield f"{model.model}: {model.optimization.state}: {model.optimization.detail}{proof}"
    for rule in model.package.rules if model.package else ():
        if not rule.passed and not rule.waived:
            yield f"{model.model}, its package: {rule.rule}: broken: {rule.detail}"
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
    if model.report and model.report.inconclusive and not verbose:
        yield f"{model.model}: batch-invariant: inconclusive: {model.report.inconclusive}"


def _print_controls(console: Console, outcome: check.Outcome, verbose: bool) -> None:
    """The proof of the proof: models that are wrong on purpose, and sound ones that look odd."""
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


def print_json(outcome: Outcome) -> None:
    """As the server answers, with each file's name beside its classes."""
    predictions = []
    for prediction in outcome.predictions:
        classes = [{"id": i, "label": label, "probability": p} for i, label, p in prediction.classes]
        answer = {"error": prediction.error} if prediction.error else {"classes": classes}
        predictions.append({"file": prediction.source} | answer)
    json.dump({"model": outcome.model, "version": outcome.version, "predictions": predictions}, sys.stdout, indent=2)
    print()


def print_csv(outcome: Outcome) -> None:
    """A line a class; a file that could not be read has one line, with its error."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["file", "rank", "id", "label", "probability", "error"])
    for prediction in outcome.predictions:
        if prediction.error:
            writer.writerow([prediction.source, "", "", "", "", prediction.error])
        for rank, (class_id, label, probability) in enumerate(prediction.classes, 1):
            writer.writerow([prediction.source, rank, class_id, label, f"{probability:.7g}", ""])
