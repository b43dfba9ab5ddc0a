"""What a head must be beyond what the parser sees to."""

from __future__ import annotations

import pytest

from service.errors import Malformed
from service.frontend.limits import whole_number
from service.frontend.request_heads import check_head, origin_form


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/a?b=http://c", b"/a?b=http://c"),
        (b"//a/b", b"//a/b"),
        (b"http://a", b"/"),
        (b"http://a?b=c", b"/?b=c"),
        (b"HTTPS://a:1/b?c=/d", b"/b?c=/d"),
        (b"http://u:p@[::1]:80/b", b"/b"),
    ],
)
def test_a_target_is_brought_to_its_path(target, path):
    assert origin_form(target) == path


@pytest.mark.parametrize("target", [b"*", b"a:80", b"ftp://a/b", b"http:///b", b"http:/b", b"/a#b", b"http://a#b"])
def test_any_other_target_is_refused(target):
    with pytest.raises(Malformed):
        origin_form(target)


@pytest.mark.parametrize("host", [b"", b"a", b"a.b:80", b"[::1]:80", b"a_b-c~", b"%41"])
def test_a_host_is_taken_and_another_refused(host):
    assert check_head("1.1", b"/", [(b"host", host)]) is False
    for wrong in (host + b"/", host + b" b", host + b"@b", host + b"\\", host + b"\xe4"):
        with pytest.raises(Malformed):
            check_head("1.1", b"/", [(b"host", wrong)])


def test_http_1_0_needs_no_host_and_waits_for_nothing():
    assert check_head("1.0", b"/", [(b"expect", b"100-continue")]) is False
    assert check_head("1.1", b"/", [(b"host", b"a"), (b"expect", b"100-Continue")]) is True


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("7", 7), ("007", 7), ("99", 99), ("100", 99), ("9" * 5000, 99), ("0" * 5000 + "7", 7), ("0" * 5000, 0)],
)
def test_digits_of_any_number_are_a_number(text, number):
    assert whole_number(text, 99) == number


@pytest.mark.parametrize("text", ["", " 7", "7 ", "+7", "-7", "7.0", "1_0", "0x7", "²", "٣", "７", "1e3", "\n7"])  # noqa: RUF001
def test_other_text_is_not(text):
    assert whole_number(text, 99) is None
