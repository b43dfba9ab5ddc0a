"""All settings, each written once: its flag, its `GRADLESS_…` variable and its row in the documentation come from here.

A flag wins over a variable, a variable over `.env`, that over a platform's own variables, those over `gradless.toml`,
that over the default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from service.errors import ConfigurationError
from service.host.environment import PREFIX, closest, service_links, unknown_variables
from service.host.home import cache_home, stand_ins, usable_cache
from service.host.platforms import platform_settings
from service.host.text import read_text
from service.validation import plain_words

_CACHE = cache_home() / "gradless"
_ENV_FILE, _TOML_FILE = Path(".env"), Path("gradless.toml")


class _Environment(EnvSettingsSource):
    """The environment without service links."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        links = {name.lower() for name in service_links()}
        return {name: value for name, value in super()._load_env_vars().items() if name not in links}


class _EnvFile(DotEnvSettingsSource):
    """`.env`, which other programs share: only what begins with `GRADLESS_` is ours."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        values = dotenv_values(stream=StringIO(_read_if_there(_ENV_FILE)))
        return {name.lower(): value for name, value in values.items() if name.upper().startswith(PREFIX)}


def _read_toml() -> dict[str, Any]:
    try:
        return tomllib.loads(_read_if_there(_TOML_FILE))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError.at(_TOML_FILE, "file", f"is not valid TOML: {error}", "see https://toml.io") from error


def _read_if_there(file: Path) -> str:
    """Return a file's text; nothing where there is no file of that name.

    Raises:
        ConfigurationError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_text(file, "file")
    except (FileNotFoundError, IsADirectoryError):
        return ""
    except OSError as error:
        words, fix = f"cannot be read: {error.strerror}", "make it readable, or start in another folder"
        raise ConfigurationError.at(file, "file", words, fix) from error


class Settings(BaseSettings):
    """The settings that an operator may change. A number that nobody will change is a named constant elsewhere."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    models: Path = Field(Path("models"), description="Folder of models, each in a folder of its own.")
    default_model: str | None = Field(
        None, description="Model that answers /predict; may be left out if there is only one."
    )
    cache: Path = Field(
        _CACHE,
        description="Folder for what is made once per model and machine: full proofs and compiled packages.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    operations_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Separate port for metrics, cards and proofs; served on the main port if omitted.",
    )
    front_ends: int = Field(1, ge=1, le=64, description="Front-end processes that share the port.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; several are separated by commas.")
    threads: int = Field(0, ge=0, description="Intra-op threads of a CPU engine; 0 for one per core.")
    decode_threads: int = Field(0, ge=0, description="Threads per front end that decode pictures; 0 for one per core.")
    optimize: Literal["auto", "eager"] = Field(
        "auto", description="auto: compile each model in the background and serve the faster one; eager: never compile."
    )
    watchdog_seconds: float = Field(
        10.0,
        gt=0,
        description="Replace an engine that is unresponsive, or stuck in one forward, for this many seconds.",
    )
    max_body_bytes: int = Field(20_000_000, ge=1, description="Largest request body, in bytes.")
    max_pixels: int = Field(
        50_000_000, ge=1, description="Maximum number of pixels of a picture, checked before it is decoded."
    )
    max_instances: int = Field(64, ge=1, le=1024, description="Maximum number of examples in a request.")
    max_queued_examples: int = Field(
        512, ge=1, description="Maximum number of unanswered examples per front end; more are refused with 503."
    )
    max_queued_bytes: int = Field(
        512 * 1024 * 1024, ge=1, description="Maximum bytes of their inputs; more are refused with 503."
    )
    timeout_ms: int = Field(30_000, ge=1, description="Deadline of a request without X-Timeout-Ms, in milliseconds.")
    max_timeout_ms: int = Field(
        120_000, ge=1, description="Longest deadline that X-Timeout-Ms may set, in milliseconds."
    )
    body_timeout_seconds: float = Field(20.0, gt=0, description="Seconds to wait for a complete body.")
    watch: bool = Field(False, description="Reload when model files change, once they have been stable for a second.")
    replace: Literal["beside", "stop-first"] = Field(
        "beside",
        description="How a reload replaces an engine: beside the old one, or stop-first if the device cannot hold two.",
    )
    start_limit_seconds: float = Field(
        600.0,
        gt=0,
        description="Exit with 1 if no engine serves a model for this many seconds; also limits a reload.",
    )
    header_timeout_seconds: float = Field(10.0, gt=0, description="Seconds to wait for complete request headers.")
    keep_alive_seconds: float = Field(5.0, gt=0, description="Seconds to keep an idle connection open.")
    max_connections: int = Field(
        4096, ge=1, description="Maximum number of connections per front end; more are refused with 503."
    )
    keys_file: Path | None = Field(
        None, description="File of API keys, one per line; requests to /predict must then carry one."
    )
    drain_delay_seconds: float = Field(2.0, ge=0, description="Seconds to keep answering after SIGTERM.")
    drain_limit_seconds: float = Field(
        25.0, gt=0, description="Seconds that requests in flight may take to finish after the drain delay."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level to log: debug, info, warning or error."
    )
    access_log: bool = Field(False, description="Log every request.")
    root_path: str = Field("", description="Path prefix that a proxy in front strips.")
    cors_origins: list[str] = Field([], description="Origins whose pages may call the API; * for any.")
    ssl_certfile: Path | None = Field(None, description="TLS certificate chain, PEM.")
    ssl_keyfile: Path | None = Field(None, description="TLS private key, PEM.")

    @field_validator("cache")
    @classmethod
    def _find_cache(cls, stated: Path) -> Path:
        if stated == _CACHE:
            return usable_cache(stated)
        try:
            return stated.expanduser()
        except RuntimeError as error:
            raise ValueError("this user has no home; name the folder without ~") from error

    def first_device(self, cuda: bool) -> str:
        """Return the device of a command that runs in one process; `cuda` says whether there is a GPU."""
        first = self.device.split(",")[0].strip()
        return ("cuda" if cuda else "cpu") if first == "auto" else first

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = InitSettingsSource(settings_cls, _read_toml())
        platform = InitSettingsSource(settings_cls, platform_settings())
        return init_settings, _Environment(settings_cls), _EnvFile(settings_cls), platform, toml


def read_settings(flags: dict[str, Any]) -> Settings:
    """Read the settings: flags first, then everything that they take precedence over.

    Raises:
        ConfigurationError: values do not fit or keys are unknown; it lists all of them.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError([_words(dict(problem), flags) for problem in error.errors()]) from error
    except SettingsError as error:  # which does not say more than the field of a list that is not JSON
        name = f"{PREFIX}{str(error).split(chr(34))[1].upper()}"
        raise ConfigurationError([f'{name}: is not a list in JSON; write ["ONE", "OTHER"]']) from error


class Note(NamedTuple):
    """A remark on where settings came from; `fields` are the other fields of its log line."""

    event: str
    fields: dict[str, Any]

    def __str__(self) -> str:
        return ": ".join([self.event, *(f"{name}: {value}" for name, value in self.fields.items())])


def notes(settings: Settings) -> list[Note]:
    """List the variables that were ignored, and the temporary folders that replace a missing home."""
    found = []
    if links := service_links():
        then = "they are not settings; enableServiceLinks: false keeps them out of a pod"
        found.append(Note("service links passed over", {"variables": links, "then": then}))
    if unknown := unknown_variables(Settings.model_fields):
        found.append(Note("unknown variables passed over", {"variables": unknown}))
    if not Path(os.environ.get("XDG_CACHE_HOME") or "/").is_absolute():
        found.append(Note("XDG_CACHE_HOME passed over", {"why": "it is not an absolute path"}))
    if folders := stand_ins(home=os.environ.get("HOME", ""), cache=str(settings.cache)):
        found.append(Note("a temporary folder in place of a home", folders))
    return found


def _words(problem: dict[str, Any], flags: dict[str, Any]) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else "settings"
    if problem["type"] == "extra_forbidden":
        return _unknown_key(key)
    where = f"--{key.replace('_', '-')}" if key in flags else f"{PREFIX}{key.upper()}, or {key} in {_TOML_FILE}"
    return f"{where}: {plain_words(problem)}"


def _unknown_key(key: str) -> str:
    """Say which file has the unknown key: keys of `.env` have the prefix, those of `gradless.toml` do not."""
    of_env = key.startswith(PREFIX.lower())
    file, shown, prefix = (_ENV_FILE, key.upper(), PREFIX) if of_env else (_TOML_FILE, key, "")
    meant = closest(key.removeprefix(PREFIX.lower()), Settings.model_fields, prefix)
    return f"{file}: {shown}: there is no such setting; {meant}"
