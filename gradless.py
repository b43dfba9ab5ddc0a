"""The way in: `gradless` and `python -m gradless`. Imports the `service` beside this file, whatever else has that name.

A name as common as `service` is taken somewhere: by a package on PYTHONPATH, or in the folder that a server is started
from. This module's name is not. See docs/decisions/0013-whose-name-a-module-has.md.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _import_service() -> None:
    """Import our `service` and keep it; its parts are then found through it."""
    file = Path(__file__).resolve().parent / "service" / "__init__.py"
    if getattr(sys.modules.get("service"), "__file__", None) == str(file):
        return
    spec = importlib.util.spec_from_file_location("service", file, submodule_search_locations=[str(file.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = sys.modules["service"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_import_service()


def main() -> None:
    """Entry point of the command `gradless`."""
    from service.cli import main

    main()


if __name__ == "__main__":
    main()
