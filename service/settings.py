"""Every knob, once: the flag, the `GRADLESS_…` variable and the docs table come from it.

A flag wins over a variable, a variable over `.env`, that over `gradless.toml`, that over the default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from service.errors import ConfigurationError

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "gradless")


class Settings(BaseSettings):
    """What an operator may turn. What nobody will turn is a constant with a name, elsewhere."""

    model_config = SettingsConfigDict(
        env_prefix="GRADLESS_", env_file=".env", toml_file="gradless.toml", extra="forbid", frozen=True
    )

    models: Path = Field(Path("models"), description="Folder that holds the models, one folder each.")
    default_model: str | None = Field(None, description="Model that answers /predict; else the only one.")
    cache: Path = Field(
        _CACHE,
        description="Folder for what is made once for a model on this machine: its full proof, its compiled package.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    operations_port: int | None = Field(
        None, ge=0, le=65535, description="Port for metrics, cards and proofs; else they are on the main port."
    )
    front_ends: int = Field(1, ge=1, le=64, description="Front-end processes that share the port.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N, or several with commas.")
    threads: int = Field(0, ge=0, description="Intra-op threads of a CPU engine; 0 for the cores there are.")
    decode_threads: int = Field(0, ge=0, description="Threads that decode pictures, a front end; 0 for the cores.")
    optimize: Literal["auto", "eager"] = Field(
        "auto", description="auto: compile each model behind serving, and serve what wins; eager: never."
    )
    watchdog_seconds: float = Field(
        10.0, gt=0, description="Silence, or a forward, of an engine that is borne before it is replaced, in seconds."
    )
    max_body_bytes: int = Field(20_000_000, ge=1, description="Largest request body, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Most pixels of a picture, looked at before decoding.")
    max_instances: int = Field(64, ge=1, le=1024, description="Most pictures in one request.")
    max_queued_examples: int = Field(512, ge=1, description="Pictures a front end holds at once; beyond it, 503.")
    timeout_ms: int = Field(30_000, ge=1, description="Deadline of a request that names none, in milliseconds.")
    max_timeout_ms: int = Field(120_000, ge=1, description="Longest deadline that X-Timeout-Ms may ask for.")
    body_timeout_seconds: float = Field(20.0, gt=0, description="Longest wait for a complete body.")
    watch: bool = Field(False, description="Reload when the files of a model have changed and been quiet for a second.")
    replace: Literal["beside", "stop-first"] = Field(
        "beside",
        description="How a reload replaces an engine: beside it, or stop-first where the device cannot hold two.",
    )
    start_limit_seconds: float = Field(
        600.0, gt=0, description="Longest time with no engine that serves a model; then the server exits with 1."
    )
    header_timeout_seconds: float = Field(10.0, gt=0, description="Longest wait for a request's complete headers.")
    keep_alive_seconds: float = Field(5.0, gt=0, description="A connection without a request is kept for so long.")
    max_connections: int = Field(4096, ge=1, description="Connections a front end holds at once; beyond it, 503.")
    keys_file: Path | None = Field(None, description="File of keys, one a line: /predict then needs one of them.")
    drain_delay_seconds: float = Field(2.0, ge=0, description="After SIGTERM, answer on for so long.")
    drain_limit_seconds: float = Field(25.0, gt=0, description="Longest drain after that delay.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    access_log: bool = Field(False, description="Log each request.")
    root_path: str = Field("", description="Path prefix that a proxy in front takes away.")
    cors_origins: list[str] = Field([], description="Origins whose pages may call; * for any.")
    ssl_certfile: Path | None = Field(None, description="TLS certificate chain, PEM.")
    ssl_keyfile: Path | None = Field(None, description="TLS private key, PEM.")

    def first_device(self, cuda: bool) -> str:
        """The one device of a command that runs in a single process; `cuda` says whether there is a GPU."""
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
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)


def read_settings(flags: dict[str, Any]) -> Settings:
    """Settings from the flags given and everything below them.

    Raises:
        ConfigurationError: a value does not fit, or a key is unknown; all such at once.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError([_words(dict(problem), flags) for problem in error.errors()]) from error
    except ValueError as error:  # a TOML file that does not parse
        raise ConfigurationError([f"gradless.toml or environment: {error}"]) from error


def _words(problem: dict[str, Any], flags: dict[str, Any]) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else "settings"
    if problem["type"] == "extra_forbidden":
        return f"settings: {key}: there is no such setting; there are {', '.join(sorted(Settings.model_fields))}"
    where = f"--{key.replace('_', '-')}" if key in flags else f"GRADLESS_{key.upper()} or gradless.toml"
    right = Settings.model_fields[key].description if key in Settings.model_fields else ""
    return f"{where}: {key} = {problem['input']!r}: {problem['msg']}; it is: {right}"
