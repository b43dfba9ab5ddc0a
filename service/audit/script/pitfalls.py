"""The pitfalls by name, each with its fix. Knows no torch."""

from __future__ import annotations

import msgspec

#: The right code, by the name of the pitfall.
FIXES = {
    "forgot-eval": "call model.eval() once, after loading the weights",
    "gradients-left-on": "run the forward under torch.inference_mode(); eval() does not turn gradients off",
    "parameters-unfrozen": "call model.requires_grad_(False) on the whole model, with the underscore, last of all",
    "no-grad-in-another-thread": "enter inference_mode in the thread that runs the forward: grad mode is thread-local",
    "functional-dropout": "pass training=self.training (the default is True), or use nn.Dropout",
    "batch-statistics": "keep track_running_stats=True, train, and let eval() use the running statistics",
    "outputs-kept-with-graph": "keep output.detach() or .item(), or run under inference_mode",
    "detached-after-the-fact": "run the forward under inference_mode; detach() drops the graph once it is paid for",
    "frozen-batchnorm-moves": "call eval() on the frozen layers after model.train(): requires_grad does not stop them",
    "no-gradient-reaches": "compute what is trained, up to and with the loss, outside no_grad",
}


class Pitfall(msgspec.Struct, kw_only=True):
    """One finding.

    Attributes:
        pitfall: its name, a key of FIXES.
        file, line: where, in the script; line 0 where only the function as a whole can be blamed.
        what: what was seen, in words.
        cost: what it costs, measured, in words.
        fix: what to write instead.
    """

    pitfall: str
    file: str
    line: int
    what: str
    cost: str
    fix: str = ""

    def __post_init__(self) -> None:
        self.fix = FIXES[self.pitfall]


class ScriptAudit(msgspec.Struct, kw_only=True):
    """The pitfalls of one function. `calls` counts its calls with the same `(N, …) float32` batch."""

    script: str
    batch_shape: list[int]
    calls: int
    training: bool
    pitfalls: list[Pitfall]
