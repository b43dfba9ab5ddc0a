"""The routes for operators: health, the models, their proofs, the metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Security
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from service.errors import Draining
from service.frontend.answered import json_response
from service.frontend.documentation import KEY, ONE_MODEL, RELOAD
from service.frontend.engines.client import Client
from service.frontend.keys import Keys
from service.host.memory_file import MemoryFile
from service.metrics import render
from service.wire.messages import ModelState, Reloading


def public(client: Client, is_draining: Callable[[], bool]) -> APIRouter:
    """The routes beside /predict that every port has."""
    router = APIRouter(tags=["operations"])

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """Show the page to a browser; to KServe's clients say that the process lives."""
        accept = request.headers.get("accept", "")
        return RedirectResponse("docs") if not accept or "text/html" in accept else json_response({"status": "alive"})

    @router.get("/health/live", summary="The process answers")
    async def live() -> Response:
        return json_response({"status": "live"})

    @router.get("/health/ready", summary="Every required model can answer now", responses={503: {}})
    async def ready() -> Response:
        reasons = reasons_not_ready(client, is_draining())
        return json_response(
            {"status": "not ready" if reasons else "ready", "reasons": reasons}, 503 if reasons else 200
        )

    @router.get("/models", summary="What is served")
    async def models() -> Response:
        models = [_summary(client, state) for state in client.known.models.values()]
        return json_response({"models": models, "reload": _reload_state(client.known.reloading)})

    return router


def operations(
    client: Client,
    is_draining: Callable[[], bool],
    settle: Callable[[], None],
    metrics_memory: MemoryFile,
    request_reload: Callable[[], None],
    keys: Keys | None,
) -> APIRouter:
    """The routes that can be put on a port of their own. Where there are keys, what changes something needs one."""
    router = APIRouter(tags=["operations"])
    key = [Security(KEY)] if keys else []  # for the schema alone: it refuses nothing

    @router.get("/models/{model}", summary="One model: its version, card, input and memory", **ONE_MODEL)
    async def one_model(model: str) -> Response:
        state = client.known.model(model)
        card = {key: state.card[key] for key in state.card if key not in ("labels", "input")}
        return json_response(
            _summary(client, state)
            | {
                "detail": state.detail,
                "reload_error": client.known.reloading.error,
                "seal": state.seal,
                "input": state.input,
                "signature": msgspec.to_builtins(state.signature),
                "classes": len(state.answer.get("labels", ())),
                "batch_sizes": state.batch_sizes,
                "memory_format": state.tuning and state.tuning.memory_format,
                "threads": state.tuning and state.tuning.threads,
                "cuda_graphs": state.cuda_graphs,
                "warnings": msgspec.to_builtins(state.report.findings) if state.report else [],
                "optimization": _optimization(client, state),
                "tuned": state.tuned and msgspec.to_builtins(state.tuned),
                "memory_bytes": state.memory_bytes,
                "card": card,
            }
        )

    def reload(request: Request, model: str | None = None) -> Response:
        if keys:
            keys.check(request.headers)
        if model is not None:
            client.known.model(model)
        if is_draining():
            raise Draining("The server is shutting down.")
        before = client.known.reloading
        request_reload()
        detail = "New engines load, prove and warm up; then requests turn to them. GET /models says how it went."
        return json_response({"status": "accepted", "reloads_ended": before.ended, "detail": detail}, 202)

    @router.post("/models/reload", summary="Serve what the model folders hold now", dependencies=key, **RELOAD)
    async def reload_all(request: Request) -> Response:
        return reload(request)

    @router.post("/models/{model}/reload", summary="The same: an engine runs every model", dependencies=key, **RELOAD)
    async def reload_model(request: Request, model: str) -> Response:
        return reload(request, model)

    @router.get("/models/{model}/proof", summary="The self-check: each rule, and what it saw", **ONE_MODEL)
    async def proof(model: str) -> Response:
        state = client.known.model(model)
        passed = state.report is not None and state.report.passed
        report = msgspec.to_builtins(state.report) if state.report else {"rules": []}
        return json_response({"model": model, "version": state.version, "seal": state.seal, "passed": passed} | report)

    @router.get(
        "/metrics", summary="Prometheus metrics of every process of this server", response_class=PlainTextResponse
    )
    async def metrics() -> Response:
        settle()
        text, content_type = await asyncio.to_thread(render, metrics_memory)  # takes milliseconds
        return Response(text, headers={"Content-Type": content_type})

    return router


def reasons_not_ready(client: Client, is_draining: bool) -> list[str]:
    """Return why the server is not ready: each required model that cannot answer now."""
    if is_draining:
        return ["draining"]
    reasons = []
    now = time.monotonic()
    waits = [f"{wait.device}: {wait.detail}, since {now - wait.since:.0f} s" for wait in client.known.waiting.values()]
    for state in client.known.models.values():
        if state.required and not (state.state == "ready" and client.is_up(state.name)):
            why = state.detail or ("its engine is being replaced" if state.state == "ready" else state.state)
            reasons.append(f"{state.name}: {why}" + (f" ({'; '.join(waits)})" if waits and not state.detail else ""))
    return reasons


def _summary(client: Client, state: ModelState) -> dict[str, Any]:
    waiting = state.state == "ready" and not client.is_up(state.name)
    return {
        "name": state.name,
        "version": state.version,
        "state": "restarting" if waiting else state.state,
        "task": state.task,
        "required": state.required,
    }


def _optimization(client: Client, state: ModelState) -> object:
    """Tell whether a compiled package answers, and why; while one is being made, what has come of it so far."""
    verdict = state.verdict
    if verdict and verdict.state == "pending":
        verdict = client.known.verdicts.get((state.name, state.version), verdict)
    return msgspec.to_builtins(verdict)


def _reload_state(state: Reloading) -> dict[str, Any]:
    return {"running": state.running, "ended": state.ended, "error": state.error}
