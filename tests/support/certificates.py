"""Certificates that sign themselves, made by the openssl of the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

NEW_KEY = ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


def make_certificate(folder: Path) -> None:
    """Write `cert.pem` and its `key.pem`."""
    openssl(folder, *NEW_KEY, "key.pem")
    openssl(folder, "req", "-x509", "-new", "-key", "key.pem", "-subj", "/CN=a", "-days", "2", "-out", "cert.pem")
