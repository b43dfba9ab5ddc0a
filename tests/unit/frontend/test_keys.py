"""Keys: what a file may hold, and what happens when it changes."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from service.errors import ConfigurationError, Unauthorized
from service.frontend import keys
from service.frontend.keys import Keys, read_keys


def stated(key: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"authorization": f"{scheme} {key}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# who may ask\nfirst-key\n\n  second.key==  # the other team\n")
    return path


@pytest.fixture
def unhurried(monkeypatch):
    """The file is looked at on each request."""
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)


@pytest.mark.parametrize("key", ["first-key", "second.key=="])
def test_each_key_of_the_file_opens(file, key):
    Keys(file).check(stated(key))
    Keys(file).check(stated(key, "bearer"))


@pytest.mark.parametrize(
    "key", ["", "first-ke", "first-key2", "First-key", "# who may ask", "first-key second.key==", "ü"]
)
def test_anything_else_does_not(file, key):
    with pytest.raises(Unauthorized):
        Keys(file).check(stated(key))


@pytest.mark.parametrize("headers", [{}, {"authorization": "first-key"}, {"authorization": "Basic first-key"}])
def test_no_bearer_key_at_all_is_told_what_to_send(file, headers):
    with pytest.raises(Unauthorized, match="Authorization: Bearer"):
        Keys(file).check(headers)


def test_every_key_is_compared_whichever_is_right(file, monkeypatch):
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(1) or compare(a, b))
    for key, right in (("first-key", True), ("second.key==", True), ("wrong", False)):
        compared.clear()
        if right:
            Keys(file).check(stated(key))
        else:
            with pytest.raises(Unauthorized):
                Keys(file).check(stated(key))
        assert len(compared) == 2


def test_a_changed_file_is_read_again(file, unhurried):
    guarded = Keys(file)
    guarded.check(stated("first-key"))
    file.write_text("third-key\n")
    guarded.check(stated("third-key"))
    with pytest.raises(Unauthorized):
        guarded.check(stated("first-key"))


@pytest.mark.parametrize("what", ["gone", "empty", "no key", "no text"])
def test_a_file_that_goes_bad_keeps_the_old_keys(file, unhurried, what):
    guarded = Keys(file)
    guarded.check(stated("first-key"))
    if what == "gone":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "no key": b"two words\n", "no text": b"\xff\xfe"}[what])
    guarded.check(stated("first-key"))
    file.write_text("third-key\n")
    guarded.check(stated("third-key"))


def test_the_file_is_looked_at_once_a_second_and_not_once_a_request(file, monkeypatch):
    guarded = Keys(file)
    guarded.check(stated("first-key"))
    monkeypatch.setattr(keys, "_stamp", lambda _: pytest.fail("looked again"))
    guarded.check(stated("first-key"))


def test_a_file_that_is_bad_from_the_start_lets_nobody_in(tmp_path):
    with pytest.raises(Unauthorized):
        Keys(tmp_path / "gone").check(stated(""))


def test_a_file_from_another_system_opens_as_well(tmp_path):
    (tmp_path / "keys").write_bytes("\ufefffirst-key\r\nsecond # Büro\u2028third\r\n".encode())
    assert read_keys(tmp_path / "keys") == [keys._hash("first-key"), keys._hash("second")]


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path):
    (tmp_path / "keys").write_bytes(b"first-key\nsecond # B\xfcro\n")
    with pytest.raises(ConfigurationError, match=r"keys: keys_file: line 2, byte 11 \(0xfc\) is not UTF-8 text"):
        read_keys(tmp_path / "keys")


@pytest.mark.parametrize(
    ("text", "words"), [(b"", "holds no key"), (b"# a\n", "holds no key"), (b"a\nb c\n", "line 2")]
)
def test_a_bad_file_is_told_with_what_would_be_right_and_without_the_key(tmp_path, text, words):
    (tmp_path / "keys").write_bytes(text)
    with pytest.raises(ConfigurationError, match=words) as told:
        read_keys(tmp_path / "keys")
    assert "keys_file" in str(told.value)
    assert "one key a line" in str(told.value)
    assert "b c" not in str(told.value)
