"""Bodies: the pictures in them, whatever form they came in."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import pytest
from starlette.datastructures import Headers

from service.errors import DeadlineExceeded, Malformed, Refusal, Unprocessable, UnsupportedType
from service.frontend.inputs import LARGE_BYTES, read_pictures

PIXELS = [[[1, 2, 3], [4, 5, 6]]]
FILE = bytes(range(256)) * 4


def pictures(content_type: str, body: bytes, seconds: float = 60):
    return read(content_type, body, seconds).given


def read(content_type: str, body: bytes, seconds: float = 60):
    return asyncio.run(read_pictures(Headers({"content-type": content_type}), body, 8, time.monotonic() + seconds))


def from_json(*instances, dumped=json.dumps):
    return pictures("application/json", dumped({"instances": list(instances)}).encode())


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream", "image/anything"])
def test_a_picture_alone_is_the_body(kind):
    assert pictures(kind, b"picture") == [b"picture"]


def test_json_has_files_in_base64_and_pixels():
    assert from_json({"b64": base64.b64encode(FILE).decode()}, PIXELS) == [FILE, [[(1, 2, 3), (4, 5, 6)]]]


FORMS = {
    "wrapped at 76 columns": base64.encodebytes(FILE).decode(),
    "wrapped as MIME does": base64.encodebytes(FILE).decode().replace("\n", "\r\n"),
    "with spaces": " " + base64.b64encode(FILE).decode() + "\t",
    "a data URL": "data:image/png;base64," + base64.b64encode(FILE).decode(),
    "a wrapped data URL": "data:image/png;base64," + base64.encodebytes(FILE).decode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_base64_is_taken_as_people_write_it(form):
    assert from_json({"b64": FORMS[form]}) == [FILE]


@pytest.mark.parametrize("text", ["%%%%", "a", "ab=c", "YWJj\\", "YWJj\x00", "Ä", "YWJj-_"])
def test_what_is_not_base64_is_refused(text):
    with pytest.raises(Unprocessable, match="Instance 0: b64 is not base64"):
        from_json({"b64": text})


def test_a_byte_order_mark_before_json_is_passed_over():
    text = json.dumps({"instances": [PIXELS, {"b64": base64.b64encode(FILE).decode()}]}).encode()
    assert pictures("application/json", b"\xef\xbb\xbf" + text) == pictures("application/json", text)


@pytest.mark.parametrize("body", [b'{"instances": [[[[10.0, 20, 3e1]]]]}', b'{"instances": [[[[1e1, 20.000, 30]]]]}'])
def test_pixels_with_a_point_are_numbers_too(body):
    assert pictures("application/json", body) == [[[(10.0, 20.0, 30.0)]]]


@pytest.mark.parametrize("pixel", ["256.0", "-0.5", '"1"', "true", "null", "255.01"])
def test_pixels_out_of_range_or_of_another_type_are_refused(pixel):
    with pytest.raises(Unprocessable):
        pictures("application/json", b'{"instances": [[[[1.0, 2.0, %s]]]]}' % pixel.encode())


@pytest.mark.parametrize(
    "body", [b'{"instances": [', b"\xef\xbb\xbf", b"\xff\xfe{}", b'{"instances": [[[[NaN, 0, 0]]]]}']
)
def test_what_is_not_json_is_malformed(body):
    with pytest.raises(Malformed, match="The body is not valid JSON"):
        pictures("application/json", body)


def test_another_type_is_refused_with_those_that_are_served():
    with pytest.raises(UnsupportedType, match="image/jpeg"):
        pictures("text/plain", b"x")


@pytest.mark.parametrize("size", [10, LARGE_BYTES])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=B"])
def test_a_body_of_any_size_is_refused_in_the_same_words(size, kind):
    with pytest.raises(Refusal) as small:
        pictures(kind, b"x" * 10)
    with pytest.raises(Refusal) as other:
        pictures(kind, b"x" * size)
    assert other.value.detail == small.value.detail


def test_nobody_waits_for_a_large_body_past_the_deadline():
    body = json.dumps({"instances": [[[[1, 2, 3]] * 100] * 1000]}).encode()
    with pytest.raises(DeadlineExceeded, match="while its body was being read"):
        pictures("application/json", body, seconds=0)


@pytest.mark.parametrize("text", ['{"instances": [[[[1, 2, 3]]]], "top_k": 3}', '{"top_k":3,"instances":[{"b64":""}]}'])
def test_json_may_say_top_k(text):
    assert read("application/json", text.encode()).top_k == 3
    assert read("application/json", b'{"instances": [[[[1, 2, 3]]]]}').top_k is None


@pytest.mark.parametrize("value", ["0", "101", "null", '"3"', "3.5", "[3]", "true"])
def test_a_top_k_in_json_that_cannot_be_is_named(value):
    with pytest.raises(Unprocessable, match="top_k"):
        read("application/json", b'{"instances": [[[[1, 2, 3]]]], "top_k": %s}' % value.encode())


def test_a_top_k_that_comes_twice_in_json_is_refused():
    with pytest.raises(Malformed, match="A key appears twice"):
        read("application/json", b'{"instances": [[[[1, 2, 3]]]], "top_k": 3, "top_k": 4}')


def test_another_key_in_json_is_named_with_what_there_may_be():
    with pytest.raises(Unprocessable, match=r'unknown field `topk`; the body must be .*and may hold "top_k": 5'):
        read("application/json", b'{"instances": [[[[1, 2, 3]]]], "topk": 3}')
