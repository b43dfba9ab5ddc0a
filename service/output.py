"""What `gradless predict` prints: a table for a person, JSON or CSV for a program."""

from __future__ import annotations

import csv
import json
import sys

from rich.console import Console
from rich.table import Table

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
