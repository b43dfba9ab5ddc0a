"""A virtual environment for each peer, made on demand; it sees the torch of this one."""

from __future__ import annotations

import site
import subprocess
import sys

from rich.console import Console

from service.errors import ConfigurationError
from service.host.home import cache_home

#: The peers' versions; a newer release may differ.
REQUIREMENTS = {"litserve": "litserve==0.2.19", "mosec": "mosec==0.9.8", "triton": "nvidia-pytriton==0.7.0"}
#: Peers installed without what they require: of Triton's package only the binaries run.
ALONE = ("triton",)


def python(peer: str) -> str:
    """The interpreter of the peer's environment.

    Raises:
        ConfigurationError: it cannot be made or the peer cannot be installed.
    """
    folder = cache_home().expanduser() / "gradless" / "peers" / REQUIREMENTS[peer].replace("==", "-")
    interpreter, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        Console(stderr=True).print(f"installing {REQUIREMENTS[peer]} into {folder}")
        _run(peer, [sys.executable, "-m", "venv", "--clear", str(folder)])
        # Its own packages come first, then ours: the same torch, and no second copy of it.
        packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (packages / "gradless.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
        alone = ["--no-deps"] if peer in ALONE else []
        _run(peer, [str(interpreter), "-m", "pip", "install", "--quiet", *alone, REQUIREMENTS[peer]])
        made.touch()
    return str(interpreter)


def _run(peer: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        fix = "install it by hand, or leave peers out with --no-peers"
        raise ConfigurationError.at("bench", peer, done.stderr.strip().splitlines()[-1], fix)
