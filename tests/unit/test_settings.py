"""Settings from files and variables that others write too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.settings import notes, read_settings


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    for name in [name for name in os.environ if name.upper().startswith("GRADLESS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problem() -> str:
    with pytest.raises(ConfigurationError) as raised:
        read_settings({})
    return str(raised.value)


def test_an_env_file_may_hold_keys_of_others(here):
    lines = [
        "\ufeffGRADLESS_PORT=9000",
        "AWS_REGION=eu-west-1",
        "export PORT=tcp",
        "gradless_host='::1'",
        "GRADLESSPORT=7",
    ]
    (here / ".env").write_bytes("\r\n".join(lines).encode())
    settings = read_settings({})
    assert (settings.port, settings.host) == (9000, "::1")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (".env", "GRADLESS_PROT=1", ".env: GRADLESS_PROT: there is no such setting; did you mean GRADLESS_PORT?"),
        ("gradless.toml", "prot = 1", "gradless.toml: prot: there is no such setting; did you mean port?"),
        (
            "gradless.toml",
            "aws_region = 1",
            "gradless.toml: aws_region: there is no such setting; there are access_log,",
        ),
        ("gradless.toml", "port = ", "gradless.toml: file: is not valid TOML: Invalid value (at end of document)"),
    ],
)
def test_a_key_of_ours_that_is_unknown_is_an_error(here, file, text, words):
    (here / file).write_text(text)
    assert words in problem()


@pytest.mark.parametrize("file", [".env", "gradless.toml"])
def test_a_file_that_is_not_utf_8_is_told_with_its_line(here, file):
    (here / file).write_bytes(b"\xef\xbb\xbf# one\n# caf\xe9\n")
    assert problem() == f"{file}: file: line 2, byte 6 (0xe9) is not UTF-8 text; save the file as UTF-8"


@pytest.mark.parametrize("file", [".env", "gradless.toml"])
def test_a_folder_of_the_name_is_not_the_file(here, file):
    (here / file).mkdir()
    assert read_settings({}).port == 8000


@pytest.mark.parametrize("file", [".env", "gradless.toml"])
def test_a_file_that_cannot_be_read_is_told(here, file):
    (here / file).symlink_to(file)
    assert problem().startswith(f"{file}: file: cannot be read: ")


def test_a_toml_file_may_begin_with_a_byte_order_mark(here):
    (here / "gradless.toml").write_bytes("\ufeffport = 9000\r\nroot_path = '/ö'\r\n".encode())
    settings = read_settings({})
    assert (settings.port, settings.root_path) == (9000, "/ö")


def test_a_service_link_is_passed_over_and_noted_and_a_lower_source_counts(here, monkeypatch):
    (here / ".env").write_text("GRADLESS_PORT=9000\n")
    monkeypatch.setenv("GRADLESS_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("GRADLESS_SERVICE_HOST", "10.0.0.1")
    settings = read_settings({})
    assert settings.port == 9000
    (note,) = notes(settings)
    assert note.fields["variables"] == ["GRADLESS_PORT", "GRADLESS_SERVICE_HOST"]
    assert str(note).startswith("service links passed over: ")


def test_a_port_that_is_a_number_counts_beside_the_links(monkeypatch):
    monkeypatch.setenv("GRADLESS_PORT", "9000")
    monkeypatch.setenv("GRADLESS_PORT_8000_TCP", "tcp://10.0.0.1:8000")
    assert read_settings({}).port == 9000


def test_a_variable_that_is_no_setting_is_noted(monkeypatch):
    monkeypatch.setenv("GRADLESS_PROT", "9000")
    (note,) = notes(read_settings({}))
    assert note.fields["variables"] == {"GRADLESS_PROT": "did you mean GRADLESS_PORT?"}


def test_a_relative_cache_home_is_noted(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    (note,) = notes(read_settings({}))
    assert note.event == "XDG_CACHE_HOME passed over"


def test_a_cache_below_a_home_that_is_not_there_is_told(monkeypatch):
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("GRADLESS_CACHE", "~/cache")
    assert "this user has no home; name the folder without ~" in problem()


def test_a_cache_below_the_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/root/of/all")
    assert read_settings({"cache": Path("~/cache")}).cache == Path("/root/of/all/cache")
