"""Python round every operator of a forward."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


def around_operators(run: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> TorchDispatchMode:
    """Return a context in which `run(operator, args, kwargs)` runs each operator of this thread, and gives its output.

    Torch hides such Python from dynamo, and imports dynamo to do so: more than a second, and memory that stays. Where
    nothing has imported it there is nothing to hide from.
    """
    hide = "torch._dynamo" in sys.modules

    class Around(TorchDispatchMode):  # type: ignore[no-untyped-call]
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return hide

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return run(func, args, kwargs or {})

    return Around()  # type: ignore[no-untyped-call]
