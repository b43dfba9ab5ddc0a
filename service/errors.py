"""Every refusal, once: its name, its HTTP status, its words.

A request that cannot be answered ends in one of the `Refusal` classes; the front end writes it as
`application/problem+json` (RFC 9457). A configuration that cannot be served ends in
`ConfigurationError`, before the port opens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class ConfigurationError(Exception):
    """What an operator wrote cannot be served: the file, the key, what is wrong and what would be right.

    Attributes:
        problems: one line for each fault found; all that can be found at once are.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    @classmethod
    def at(cls, file: Path | str, key: str, problem: str, fix: str) -> ConfigurationError:
        return cls([f"{file}: {key}: {problem}; {fix}"])


class ReloadError(Exception):
    """What is in the model folders now cannot replace what is served."""


@contextmanager
def blamed_on(file: Path | str, key: str, doing: str, fix: str) -> Iterator[None]:
    """Inside, an operator's file is read or an operator's code is run: whatever it raises is told as the file's fault.

    Raises:
        ConfigurationError: in place of any exception.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        words = (str(error).splitlines() or ["no more is known"])[0][:200]
        raise ConfigurationError.at(file, key, f"{doing} raised {type(error).__name__}: {words}", fix) from error


class Refusal(Exception):  # noqa: N818 (raise Overloaded(…) reads as it is)
    """A request that gets no 200. `name` is the problem's type and the metric's `reason`."""

    name: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def headers(self) -> dict[str, str]:
        return {}


class Malformed(Refusal):
    name, status, title = "malformed", 400, "The request is malformed"


class Unauthorized(Refusal):
    name, status, title = "unauthorized", 401, "A key is needed"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class NotFound(Refusal):
    name, status, title = "not_found", 404, "There is nothing at this path"


class ModelNotFound(Refusal):
    name, status, title = "model_not_found", 404, "There is no such model"


class MethodNotAllowed(Refusal):
    name, status, title = "method_not_allowed", 405, "The method is not allowed here"


class BodyTooSlow(Refusal):
    name, status, title = "body_too_slow", 408, "The body came too slowly"


class HeadersTooSlow(Refusal):
    name, status, title = "headers_too_slow", 408, "The headers came too slowly"


class TooLarge(Refusal):
    name, status, title = "too_large", 413, "The request is too large"


class UnsupportedType(Refusal):
    name, status, title = "unsupported_media_type", 415, "The content type is not supported"


class Unprocessable(Refusal):
    name, status, title = "unprocessable", 422, "The input cannot be used"


class HeadersTooLarge(Refusal):
    name, status, title = "headers_too_large", 431, "The headers are too large"


class ClientLeft(Refusal):
    """Nobody hears it: the metrics and the access log do. The number is nginx's, there is none in the standards."""

    name, status, title = "client_left", 499, "The client left"


class ModelFailed(Refusal):
    name, status, title = "model_failed", 500, "The model failed"


class ModelOutputInvalid(ModelFailed):
    name, title = "model_output_invalid", "The model's output is invalid"


class InputCrashesModel(ModelFailed):
    name, title = "input_crashes_model", "This input crashes the model"


class Unavailable(Refusal):
    """503: not now. `retry_after` is in seconds and goes out rounded up, as HTTP wants it (RFC 9110, 10.2.3)."""

    status = 503

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


class Overloaded(Unavailable):
    name, title = "overloaded", "The queue is full"


class TooManyConnections(Unavailable):
    name, title = "too_many_connections", "There are too many connections"


class Draining(Unavailable):
    name, title = "draining", "The server is shutting down"


class NotReplayed(Unavailable):
    name, title = "not_replayed", "The model's process ended before it answered"


class NotReady(Unavailable):
    name, title = "not_ready", "The model is not ready"


class DeadlineExceeded(Refusal):
    name, status, title = "deadline_exceeded", 504, "The deadline passed before the answer"


def _tree(root: type[Refusal]) -> list[type[Refusal]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


#: Every refusal by its name: an engine sends the name over the wire, the front end raises the class.
BY_NAME: dict[str, type[Refusal]] = {cls.name: cls for cls in _tree(Refusal)}
