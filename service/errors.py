"""All refusals, each defined once: name, HTTP status and title.

A request that cannot be answered ends in one of the `Refusal` classes; the front end writes it as
`application/problem+json` (RFC 9457). A configuration that cannot be served ends in
`ConfigurationError`, before the port opens.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

#: Prefix of the packages that models' own files run as.
MODEL_PACKAGE = "gradless_model_"


class ConfigurationError(Exception):
    """A configuration that cannot be served: file, key, what is wrong and what would be right.

    Attributes:
        problems: one line for each fault; as many as can be found at once.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    @classmethod
    def at(cls, file: Path | str, key: str, problem: str, fix: str) -> ConfigurationError:
        return cls([f"{file}: {key}: {problem}; {fix}"])


class ReloadError(Exception):
    """The model folders hold something that cannot replace what is served."""


@contextmanager
def blamed_on(file: Path | str, key: str, doing: str, fix: str) -> Iterator[None]:
    """Inside, an operator's file is read or code is run; anything it raises is reported as that file's fault.

    Raises:
        ConfigurationError: replaces any exception, SystemExit included, and names the line of the operator's code.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        words = f"{doing} {raised_words(error, Path(file).parent)}"
        raise ConfigurationError.at(file, key, words, _fix(error) or fix) from error


def raised_words(error: BaseException, folder: Path) -> str:
    """Say in one line what code raised, and name the last line of the folder's code that it went through, if it did."""
    text = str(error.msg) if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, ImportError) and error.name:
        text = text.replace(error.name, _as_written(error.name))
    words = (text.splitlines() or ["no more is known"])[0][:200]
    return f"raised {type(error).__name__}: {words}{_place(error, folder)}"


def _place(error: BaseException, folder: Path) -> str:
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    inside = [(Path(name), line) for name, line in places if Path(name).is_relative_to(folder)]
    return f" ({inside[-1][0].relative_to(folder)}:{inside[-1][1]})" if inside else ""


def _fix(error: BaseException) -> str:
    """Advise on an import that finds nothing; empty for all else."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    name = _as_written(error.name)
    if name.startswith("."):
        return f"put {name.rpartition('.')[2]}.py beside the file that imports it, or correct the name"
    root, dot, _ = name.partition(".")
    if dot:
        return f"install a version of {root} that has it, or correct the name"
    return f"install it: {name} is in no installed package, and not in the model's folder"


def _as_written(module: str) -> str:
    """A module's name as the operator's code has it: files of a model's folder are run below a package of ours."""
    package, dot, inside = module.partition(".")
    return f"{dot}{inside}" if package.startswith(MODEL_PACKAGE) else module


def shortened(names: Sequence[str], most: int) -> str:
    """Return the first names with commas, and how many more there are."""
    more = f", … and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


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


class Forbidden(Refusal):
    name, status, title = "forbidden", 403, "That is not allowed here"


class NotFound(Refusal):
    name, status, title = "not_found", 404, "There is nothing at this path"


class ModelNotFound(Refusal):
    name, status, title = "model_not_found", 404, "There is no such model"


class MethodNotAllowed(Refusal):
    """405; `allowed` are the methods that the path has (RFC 9110, 15.5.6: they must be named)."""

    name, status, title = "method_not_allowed", 405, "The method is not allowed here"

    def __init__(self, detail: str, allowed: Iterable[str] = ()) -> None:
        super().__init__(detail)
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": ", ".join(sorted(self.allowed))}


class BodyTooSlow(Refusal):
    name, status, title = "body_too_slow", 408, "The body arrived too slowly"


class HeadersTooSlow(Refusal):
    name, status, title = "headers_too_slow", 408, "The headers arrived too slowly"


class TooLarge(Refusal):
    name, status, title = "too_large", 413, "The request is too large"


class TargetTooLong(Refusal):
    name, status, title = "target_too_long", 414, "The request target is too long"


class NotAcceptable(Refusal):
    name, status, title = "not_acceptable", 406, "No answer of an accepted type can be written"


class UnsupportedType(Refusal):
    name, status, title = "unsupported_media_type", 415, "The content type is not supported"


class UnsupportedCoding(Refusal):
    """415; the header tells it from an unsupported type (RFC 9110, 15.5.16)."""

    name, status, title = "unsupported_coding", 415, "The content coding is not supported"

    @property
    def headers(self) -> dict[str, str]:
        return {"Accept-Encoding": "gzip, deflate"}


class ExpectationFailed(Refusal):
    name, status, title = "expectation_failed", 417, "The expectation cannot be met"


class Unprocessable(Refusal):
    name, status, title = "unprocessable", 422, "The input cannot be used"


class HeadersTooLarge(Refusal):
    name, status, title = "headers_too_large", 431, "The headers are too large"


class ClientLeft(Refusal):
    """Only the metrics and the access log see it. The status is nginx's; the standards have none."""

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
    name, title = "overloaded", "The server is overloaded"


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
