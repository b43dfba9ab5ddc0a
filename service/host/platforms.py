"""Ports and paths that platforms choose for a container, by variables of theirs.

Sources: cloud.google.com, "Container runtime contract" (Cloud Run: PORT beside K_SERVICE), and "Custom container
requirements for prediction" (Vertex AI: AIP_*); docs.aws.amazon.com, "Register and deploy models with multi-container
endpoints" (SageMaker: SAGEMAKER_BIND_TO_PORT).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.errors import ConfigurationError
from service.validation import whole_number

_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 (a platform's proxy asks from outside of the container)
_MOST = 65535


class VertexRoutes(NamedTuple):
    """Paths of Vertex AI's requests; empty where it has set none."""

    predict: str = ""
    health: str = ""


def platform_settings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the settings `host` and `port` that a platform asks for; nothing outside of one.

    Raises:
        ConfigurationError: a port is not one.
    """
    names = ["AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT", *(["PORT"] if "K_SERVICE" in environment else [])]
    for name in names:
        if stated := environment.get(name, "").strip():
            port = whole_number(stated, _MOST + 1)
            if not port or port > _MOST:
                raise ConfigurationError.at("environment", name, f"{stated[:40]!r} is not a port", f"set 1 to {_MOST}")
            return {"host": _EVERY_ADDRESS, "port": port}
    return {}


def vertex_routes(environment: Mapping[str, str] = os.environ) -> VertexRoutes:
    """Return the paths at which Vertex AI asks.

    Raises:
        ConfigurationError: one does not begin with a slash.
    """
    routes = VertexRoutes(environment.get("AIP_PREDICT_ROUTE", ""), environment.get("AIP_HEALTH_ROUTE", ""))
    for name, route in zip(("AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"), routes, strict=True):
        if route and (not route.startswith("/") or set(route) & set("{}?# ")):
            fix = "write one such as /v1/predict"
            raise ConfigurationError.at("environment", name, f"{route[:80]!r} is not a path", fix)
    return routes
