"""Multipart bodies: every part that has begun must end, or none is answered."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Malformed, Refusal, TooLarge, Unprocessable
from service.tasks.inputs.multipart import Form, form_of

TYPE = "multipart/form-data; boundary=B"


def part(content: bytes, name: str = "a.jpg", *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="file"; filename="{name}"', *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def field(name: str, content: bytes) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content


def body(*parts: bytes, boundary: bytes = b"B") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + each + b"\r\n" for each in parts) + b"--" + boundary + b"--\r\n"


CONTENTS = [b"", b"x", b"\r\n", b"-B", b"a\r\n\r\nb", b"\r\n--", b"x--B--", b"\r\n-B", bytes(range(256)) * 20]


def test_files_come_whole_and_in_order():
    assert form_of(TYPE, body(*map(part, CONTENTS)), 20) == Form(CONTENTS)


@given(
    st.lists(st.binary(max_size=60), max_size=5), st.sampled_from(["B", "----WebKitFormBoundary7MA4", "x'()+_,-./:=?"])
)
def test_whatever_is_sent_comes_back_whole(contents, boundary):
    whole = body(*map(part, contents), boundary=boundary.encode())
    assert form_of(f'multipart/form-data; boundary="{boundary}"', whole, 5) == Form(contents)


@pytest.mark.parametrize(
    "whole",
    [
        b"preamble\r\n" + body(part(b"1"), part(b"2")),
        b"preamble\r\nof --B two lines\r\n" + body(part(b"1"), part(b"2")),
        b"\r\n" + body(part(b"1"), part(b"2")),
        body(part(b"1"), part(b"2")) + b"epilogue\r\n--B\r\n",
        body(part(b"1"), part(b"2"))[:-2],
        body(part(b"1"), part(b"2")).replace(b"--B\r\n", b"--B \t\r\n"),
        body(part(b"1", "a.jpg", "Content-Type: image/jpeg", "X-Other: y"), part(b"2")),
        body(part(b"1"), part(b"2")).replace(b"Content-Disposition", b"content-DISPOSITION"),
    ],
    ids=["preamble", "longer preamble", "empty line", "epilogue", "no last line break", "padding", "headers", "case"],
)
def test_what_rfc_2046_allows_around_the_parts_is_passed_over(whole):
    assert form_of(TYPE, whole, 5) == Form([b"1", b"2"])


def test_a_boundary_that_begins_another_one_is_not_taken_for_it():
    contents = [b"1\r\n--BB\r\n2", b"\r\n--B-\r\n"]
    assert form_of(TYPE, body(*map(part, contents)), 5) == Form(contents)


def test_a_body_cut_anywhere_is_refused():
    whole = body(part(bytes(50)), part(b"second"))
    for end in range(len(whole) - len(b"--\r\n") + 1):
        with pytest.raises(Malformed):
            form_of(TYPE, whole[:end], 5)


def test_no_damage_makes_fewer_files_without_a_word():
    draw = random.Random(3)
    whole = body(part(b"first"), part(b"second"))
    for _ in range(3_000):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            files, _ = form_of(TYPE, bytes(damaged), 5)
        except Refusal:
            continue
        assert len(files) == 2


@pytest.mark.parametrize(
    ("content_type", "content", "words"),
    [
        ("multipart/form-data", body(part(b"1")), "has no boundary"),
        (TYPE, b"", "No line of the body begins with the boundary"),
        (TYPE, b"no parts", "No line of the body begins with the boundary"),
        (TYPE, body(part(b"1")).replace(b"\r\n", b"\n"), "lines end in CRLF"),
        (TYPE, body(part(b"1"))[:-6], "Part 0 of the multipart body (counting from 0) does not end"),
        (TYPE, body(part(b"1"), part(b"2"))[:-6], "Part 1 of the multipart body (counting from 0) does not end"),
        (TYPE, part(b"0") + b"\r\n" + body(part(b"1")), "a part before the first boundary"),
        (TYPE, body(part(b"1")) + part(b"2"), "a part after the last boundary"),
        (TYPE, body(b"no headers"), "has no blank line after its headers, within 16,384 bytes"),
        (TYPE, body(b"\r\n\r\ncontent"), "has no file name; give each picture one, as curl -F file=@photo.jpg does"),
        (
            TYPE,
            body(field("file", b"\xff\xd8\xff\xe0")),
            "Part 0 of the multipart body (counting from 0) has no file name",
        ),
    ],
)
def test_a_body_that_is_not_what_its_type_says_is_refused_in_words(content_type, content, words):
    with pytest.raises(Malformed, match=re.escape(words)):
        form_of(content_type, content, 5)


@pytest.mark.parametrize(
    "parts",
    [
        [field("top_k", b"3"), part(b"1"), part(b"2")],
        [part(b"1"), field("top_k", b" 3\n"), part(b"2")],
        [part(b"1"), part(b"2"), field("top_k", b"3")],
    ],
)
def test_top_k_may_be_a_field_anywhere_in_the_form(parts):
    assert form_of(TYPE, body(*parts), 2) == Form([b"1", b"2"], 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([field("top_k", b"many")], "top_k is 'many'; it must be a whole number from 1 to 100."),
        ([field("top_k", b"0")], "top_k is '0'; it must be a whole number from 1 to 100."),
        ([field("top_k", b"3"), field("top_k", b"3")], "top_k stands in the form twice; give it once."),
        ([field("topk", b"3")], "'topk' is not a form field; did you mean ?top_k=5?"),
        (
            [field("model", b"dogs")],
            "'model' is not a form field; a model is chosen by the path: POST /models/dogs/predict.",
        ),
        ([field("file", b"a/my dog.JPG")], "'file' holds the name of a file, not the file; curl -F file=@a/my dog.JPG"),
        ([field("csrf", b"\xff" * 900)], "'csrf' is not a form field; the one option is top_k, such as ?top_k=5;"),
    ],
)
def test_a_field_that_is_not_taken_is_named(fields, words):
    with pytest.raises(Unprocessable) as raised:
        form_of(TYPE, body(part(b"1"), *fields), 5)
    assert raised.value.detail.startswith(words)


def test_no_parts_are_no_files():
    assert form_of(TYPE, b"--B--\r\n", 5) == Form([])


def test_one_file_too_many_is_too_large():
    assert len(form_of(TYPE, body(*[part(b"x")] * 3), 3).files) == 3
    with pytest.raises(TooLarge, match="More than 3 files"):
        form_of(TYPE, body(*[part(b"x")] * 4), 3)


@pytest.mark.parametrize("between", [b"--BX\r\n", b"--C\r\n", b"--B\n", b"--B--x\r\n", b"x--B\r\n"])
def test_two_files_whose_boundary_is_damaged_are_not_answered_as_one(between):
    whole = body(part(b"first"), part(b"second"))
    at = whole.index(b"--B\r\n", 5)
    with pytest.raises(Malformed, match=r"a part within part 0 \(counting from 0\), where it would be lost"):
        form_of(TYPE, whole[:at] + between + whole[at + 5 :], 5)


def test_what_looks_like_the_last_boundary_within_a_file_does_not_cut_it():
    contents = [b"1\r\n--B--xyz", b"2"]
    assert form_of(TYPE, body(*map(part, contents)), 5) == Form(contents)


def test_headers_and_boundaries_without_end_are_refused_before_they_are_read():
    with pytest.raises(Malformed, match="within 16,384 bytes"):
        form_of(TYPE, body(b"a\r\n" * 500_000), 5)
    with pytest.raises(Malformed, match="again and again"):
        form_of(TYPE, body(part(b"x--B\r\n" * 100_000)), 5)
