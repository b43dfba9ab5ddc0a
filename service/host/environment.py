"""Variables of the environment that begin as ours do and are not settings: Kubernetes' service links, and mistakes."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection

PREFIX = "GRADLESS_"

#: Variables that Kubernetes, and Docker's links, set in every container near a Service called gradless or gradless-x.
#: Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://.+")
_WITH_ADDRESS = re.compile(r"GRADLESS_(?:\w+_)?PORT(?:_\d+_(?:TCP|UDP|SCTP))?")
_WITHOUT = re.compile(
    r"GRADLESS_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR))"
)


def is_service_link(name: str, value: str) -> bool:
    """Say whether an orchestrator has set this variable: a port as a number is a setting, one as a URL is a link."""
    if _WITHOUT.fullmatch(name):
        return True
    return bool(_WITH_ADDRESS.fullmatch(name) and _ADDRESS.fullmatch(value))


def service_links() -> list[str]:
    """Names of the service links that are set, sorted."""
    return sorted(name for name, value in os.environ.items() if is_service_link(name, value))


def unknown_variables(settings: Collection[str]) -> dict[str, str]:
    """Names of variables that begin with GRADLESS_ and are neither settings nor links, each with what may be meant."""
    names = [name for name in os.environ if name.upper().startswith(PREFIX)]
    return {
        name: closest(name.upper().removeprefix(PREFIX).lower(), settings, PREFIX)
        for name in sorted(names)
        if name.upper().removeprefix(PREFIX).lower() not in settings and not is_service_link(name, os.environ[name])
    }


def closest(name: str, settings: Collection[str], prefix: str = "") -> str:
    """Name the setting that is meant, or all there are."""
    close = difflib.get_close_matches(name, settings, 1)
    shown = [f"{prefix}{each.upper()}" if prefix else each for each in close or sorted(settings)]
    return f"did you mean {shown[0]}?" if close else f"there are {', '.join(shown)}"
