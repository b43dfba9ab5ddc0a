"""Judges of the pitfalls that a trial shows. Each cause is named once: of a graph, the most telling reason."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import nn

from service.audit.figures import megabytes
from service.audit.script.calls import ScriptTrial
from service.audit.script.holders import kept_at
from service.audit.script.lines import UNKNOWN, Line
from service.audit.script.pitfalls import Pitfall

Judge = Callable[[ScriptTrial], Pitfall | None]


def judge(trial: ScriptTrial) -> list[Pitfall]:
    """Return every pitfall, in the order of the script's lines."""
    judges = TRAINING if trial.training else INFERENCE
    found = [pitfall for look in judges if (pitfall := look(trial))]
    return sorted(found, key=lambda pitfall: (pitfall.file, pitfall.line))


def _at(line: Line, pitfall: str, what: str, cost: str) -> Pitfall:
    return Pitfall(pitfall=pitfall, file=line.file, line=line.number, what=what, cost=cost)


def _root_line(trial: ScriptTrial) -> Line:
    return next(iter(trial.first.roots.values()), UNKNOWN)


def forgot_eval(trial: ScriptTrial) -> Pitfall | None:
    training = trial.first.training
    if not training:
        return None
    names = sorted({type(module).__name__ for module in training})
    what = f"{len(training)} modules were called in train mode: {', '.join(names[:6])}."
    return _at(_root_line(trial), "forgot-eval", what, _cost_of_train_mode(trial))


def _cost_of_train_mode(trial: ScriptTrial) -> str:
    modes = {part: part.training for root in trial.first.roots for part in root.modules()}
    for root in trial.first.roots:
        root.eval()
    off = trial.again(trial.batch, len(trial.batch))
    for part, mode in modes.items():
        part.training = mode
    words = ["" if off is None else f"The answers are off by {off:.1%} of the largest."]
    if trial.noise:
        words.append(f"The same batch twice differs by {trial.noise:.1%}.")
    if moved := max(trial.moved.values(), default=0.0):
        words.append(f"Each call moves BatchNorm's statistics, by up to {moved:.1%}.")
    return " ".join(filter(None, words))


def graph_built(trial: ScriptTrial) -> Pitfall | None:
    """Find a graph without a backward pass, and name the first of its causes that shows."""
    if not trial.graph[0]:
        return None
    causes = (kept_with_graph, in_another_thread, unfrozen, detached, gradients_left_on)
    return next(pitfall for cause in causes if (pitfall := cause(trial)))


def _cost_of_graph(trial: ScriptTrial) -> str:
    nodes, size = trial.graph
    return f"Each call builds {nodes} nodes and keeps {megabytes(size)} for a backward pass."


def kept_with_graph(trial: ScriptTrial) -> Pitfall | None:
    nodes, size = trial.slope
    if not nodes:
        return None
    line = kept_at(trial) or _root_line(trial)
    cost = f"Each call leaves {nodes:.0f} nodes and {megabytes(round(size))} behind, over {len(trial.kept)} calls."
    return _at(line, "outputs-kept-with-graph", "What is kept between calls has its graph with it.", cost)


def in_another_thread(trial: ScriptTrial) -> Pitfall | None:
    off = [line for thread, line in trial.watch.switched_off if thread == threading.get_ident()]
    if not trial.first.unthreaded or not off:
        return None
    what = f"Gradients were turned off at line {off[0].number}, in another thread than this forward's."
    return _at(trial.first.unthreaded[0], "no-grad-in-another-thread", what, _cost_of_graph(trial))


def unfrozen(trial: ScriptTrial) -> Pitfall | None:
    """Only if the script set out to freeze: some parameters are frozen, or the attribute was set on a module."""
    parameters = trial.watch.parameters()
    learning = [p for p in parameters if p.requires_grad]
    mistaken = [type(module).__name__ for module in trial.watch.modules if "requires_grad" in vars(module)]
    if not learning or (len(learning) == len(parameters) and not mistaken):
        return None
    what = f"{len(learning)} of {len(parameters)} parameters still require a gradient."
    if mistaken:
        what += f" requires_grad is set as an attribute of {mistaken[0]}, which does nothing."
    return _at(_root_line(trial), "parameters-unfrozen", what, _cost_of_graph(trial))


def detached(trial: ScriptTrial) -> Pitfall | None:
    if not trial.first.detached or trial.has_graph:
        return None
    what = "detach() is called on an answer that already has its graph."
    return _at(trial.first.detached[0], "detached-after-the-fact", what, _cost_of_graph(trial))


def gradients_left_on(trial: ScriptTrial) -> Pitfall | None:
    return _at(_root_line(trial), "gradients-left-on", "The forward ran with gradients on.", _cost_of_graph(trial))


def functional_dropout(trial: ScriptTrial) -> Pitfall | None:
    if not trial.first.dropouts:
        return None
    cost = f"The same batch twice differs by {trial.noise:.1%} of the largest output."
    what = "Dropout is called as a function with training on, whatever the model's mode."
    return _at(trial.first.dropouts[0], "functional-dropout", what, cost)


def batch_statistics(trial: ScriptTrial) -> Pitfall | None:
    lines = [*trial.first.statistics.values(), *trial.first.batch_norms]
    if not lines:
        return None
    off = trial.again(trial.batch[:1], 1)
    cost = "It cannot run on one example." if off is None else f"Alone, an example's answer is off by {off:.1%}."
    return _at(lines[0], "batch-statistics", "BatchNorm normalises by the batch, in eval mode too.", cost)


def frozen_batchnorm_moves(trial: ScriptTrial) -> Pitfall | None:
    moving = {norm: moved for norm, moved in trial.moved.items() if moved and norm.training and _is_frozen(norm)}
    if not moving:
        return None
    line = trial.first.training.get(next(iter(moving)), UNKNOWN)
    what = f"{len(moving)} BatchNorm layers have no parameter that trains, and are in train mode."
    cost = f"Each step moves their statistics, by up to {max(moving.values()):.1%} of the largest."
    return _at(line, "frozen-batchnorm-moves", what, cost)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def no_gradient_reaches(trial: ScriptTrial) -> Pitfall | None:
    parameters = trial.watch.parameters()
    wanted = [p for p in parameters if p.requires_grad]
    reached = sum(p.grad is not None for p in wanted)
    off = [line for _, line in trial.watch.switched_off]
    if reached or not off or not wanted:
        return None
    what = "What should train is computed under no_grad."
    return _at(off[-1], "no-gradient-reaches", what, f"0 of {len(wanted)} parameters get a gradient.")


#: Judges of a function that trains, and of one that only answers.
TRAINING: tuple[Judge, ...] = (kept_with_graph, frozen_batchnorm_moves, no_gradient_reaches)
INFERENCE: tuple[Judge, ...] = (forgot_eval, graph_built, functional_dropout, batch_statistics)
