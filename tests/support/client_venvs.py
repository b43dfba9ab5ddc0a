"""Clients that others wrote and that stay out of this environment: one of their own for each, made on demand.

Each sees the packages of this environment behind its own. All are kept below the folder of caches.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.host.home import cache_home

#: What each client needs beside the packages of this environment; what it requires without importing it is left out.
REQUIREMENTS = {
    "kserve": (
        "kserve==0.21.0",
        "cloudevents<2",
        "deprecation",
        "durationpy",
        "grpc-interceptor",
        "grpcio",
        "kubernetes",
        "oauthlib",
        "pandas<3",
        "protobuf>=6.33,<7",
        "python-dateutil",
        "pytz",
        "requests-oauthlib",
        "six",
        "tabulate",
        "timing-asgi",
        "websocket-client",
    ),
    "sagemaker": ("sagemaker-inference==1.10.1", "six"),
}
#: A wheel of which a file is read, and nothing is installed.
MLSERVER = "mlserver==1.7.1"
SCRIPTS = Path(__file__).parent / "clients"
RUN_SECONDS = 60


def run(client: str, **given: object) -> Any:
    """Run a client's script, which reads `given` as JSON from standard input, and return the JSON that it prints."""
    done = subprocess.run(
        [python(client), "-W", "ignore", str(SCRIPTS / f"{client}_client.py")],
        input=json.dumps(given),
        capture_output=True,
        encoding="utf-8",
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def python(client: str) -> str:
    """Return the interpreter of a client's environment, which is made if need be."""
    requirements = REQUIREMENTS[client]
    folder = _folder(requirements[0])
    interpreter, made = folder / "bin" / "python", folder / "made"
    with _alone(folder):
        if not made.exists() or made.read_text() != "\n".join(requirements):
            _do([sys.executable, "-m", "venv", "--clear", str(folder)])
            packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
            (packages / "gradless.pth").write_text("\n".join(site.getsitepackages()) + "\n")
            _do([str(interpreter), "-m", "pip", "install", "--quiet", "--no-deps", *requirements])
            made.write_text("\n".join(requirements))
    return str(interpreter)


def wheel(requirement: str) -> Path:
    """Return the file of a package, which is downloaded if need be."""
    folder = _folder(requirement)
    with _alone(folder):
        if not list(folder.glob("*.whl")):
            words = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
            _do([sys.executable, "-m", "pip", "download", *words, requirement])
    (file,) = folder.glob("*.whl")
    return file


def _folder(requirement: str) -> Path:
    return cache_home().expanduser() / "gradless" / "clients" / requirement.replace("==", "-")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other test runs from making the same folder meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _do(command: list[str]) -> None:
    quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=quiet)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
