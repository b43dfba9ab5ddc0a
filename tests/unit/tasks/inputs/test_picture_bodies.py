"""Bodies: the pictures in them, whatever form they came in."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from service.errors import Malformed, Refusal, TooLarge, Unprocessable, UnsupportedType
from service.signature import Signature, TensorSpec
from service.tasks.inputs.picture_bodies import LARGE_BYTES, PictureInput

PIXELS = [[[1, 2, 3], [4, 5, 6]]]
FILE = bytes(range(256)) * 4


INPUT = PictureInput({"resize": 8, "crop": 8}, Signature((TensorSpec("image", "uint8", (3, 8, 8)),)), 10_000)


def pictures(content_type: str, body: bytes):
    return read(content_type, body).items


def read(content_type: str, body: bytes, most: int = 8):
    given = INPUT.read(content_type, body, most)
    assert given.count == len(given.items)
    return given


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


@pytest.mark.parametrize("text", ['{"instances": [[[[1, 2, 3]]]], "top_k": 3}', '{"top_k":3,"instances":[{"b64":""}]}'])
def test_json_may_say_top_k(text):
    assert read("application/json", text.encode()).options == {"top_k": 3}
    assert read("application/json", b'{"instances": [[[[1, 2, 3]]]]}').options == {}


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


def test_a_form_may_say_top_k():
    file = 'Content-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nx'
    body = f'--B\r\n{file}\r\n--B\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--B--\r\n'.encode()
    given = read("multipart/form-data; boundary=B", body)
    assert (given.items, given.options) == ([b"x"], {"top_k": 3})


def test_more_pictures_than_allowed_are_too_many():
    body = json.dumps({"instances": [PIXELS] * 3}).encode()
    assert read("application/json", body, most=3).count == 3
    with pytest.raises(TooLarge, match="3 instances; at most 2 are allowed in one request"):
        read("application/json", body, most=2)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


def test_a_quick_picture_alone_is_decoded_at_once_with_the_axis_of_examples():
    given = read("image/png", png())
    (array,) = INPUT.at_once(given, is_alone=False)
    assert (array.shape, array.dtype) == ((1, 3, 8, 8), np.uint8)
    assert np.array_equal(array[0], INPUT.decode(given.items[0])[0])


def test_what_takes_longer_is_left_to_a_thread():
    assert INPUT.at_once(read("image/jpeg", bytes(1 << 20)), is_alone=True) is None
    both = json.dumps({"instances": [{"b64": base64.b64encode(png()).decode()}] * 2}).encode()
    assert INPUT.at_once(read("application/json", both), is_alone=True) is None
    assert INPUT.at_once(read("application/json", json.dumps({"instances": [PIXELS]}).encode()), is_alone=True) is None


def test_numbers_are_decoded_as_the_picture_that_they_spell():
    (array,) = INPUT.decode([[(7, 8, 9)]])
    assert array.shape == (3, 8, 8)
    assert array[:, 4, 4].tolist() == [7, 8, 9]


def test_an_example_has_the_bytes_of_its_pixels():
    assert INPUT.example_bytes == 3 * 8 * 8
