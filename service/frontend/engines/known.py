"""The state of models, engines and reloads as a front end knows it: what it decodes for, and what /models shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.errors import ModelNotFound, NotReady
from service.loader.verdict import Verdict
from service.wire.messages import ModelState, Reloading, Waiting
from service.wire.specs import FrontEndSpec


@dataclass
class Known:
    """The newest word on everything that is served.

    Attributes:
        models: every model by name, as the newest generation tells it; a failed one hides none that still serves.
        waiting: by device that has no engine, what is waited for.
        verdicts: by name and version, what came of compiling a model that is served eager.
        reloading: the state of reloads.
    """

    default_model: str
    models: dict[str, ModelState]
    waiting: dict[str, Waiting] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    reloading: Reloading = field(default_factory=lambda: Reloading(False, 0, ""))

    def model(self, name: str) -> ModelState:
        """Return the newest word on a model.

        Raises:
            ModelNotFound: there is no such model.
        """
        if state := self.models.get(name):
            return state
        raise ModelNotFound(f"There is no model {name[:80]!r}; there are: {', '.join(sorted(self.models))}.")

    def ready_model(self, name: str) -> ModelState:
        """Return a model as it is served now.

        Raises:
            ModelNotFound: there is no such model.
            NotReady: it has not been ready yet, or failed.
        """
        state = self.model(name)
        if state.state != "ready":
            raise NotReady(f"{name} is {state.state}{': ' + state.detail if state.detail else ''}.")
        return state

    @classmethod
    def before_any_engine(cls, spec: FrontEndSpec) -> Known:
        """Return what is known from the cards alone: which models are to come."""
        models = {name: ModelState(name, "loading", required=required) for name, required in spec.models.items()}
        return cls(spec.default_model, models)
