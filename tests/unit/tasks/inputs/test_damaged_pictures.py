"""No bytes whatever make the decoder do anything but give a picture or refuse in words."""

import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import Refusal
from service.tasks.inputs.picture import ImageDecoder
from service.tasks.inputs.spec import InputSpec
from tests.support.models import flower

ROOT = Path(__file__).parents[4]
DECODER = ImageDecoder(InputSpec(resize=36, crop=32), max_pixels=250_000)


def photograph(kind, mode="RGB", **how):
    """A piece of a real photograph, small enough that damage hits every part of the file."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(flower())) as whole:
        whole.resize((48, 40)).convert(mode).save(file, kind, **how)
    return file.getvalue()


JPEGS = [photograph("JPEG"), photograph("JPEG", progressive=True), photograph("JPEG", "L"), photograph("JPEG", "CMYK")]
PNGS = [photograph("PNG"), photograph("PNG", "P"), photograph("PNG", "LA"), photograph("PNG", "RGBA")]
GIFS = [photograph("GIF"), photograph("GIF", "L", interlace=1)]
WEBPS = [photograph("WEBP"), photograph("WEBP", lossless=True), photograph("WEBP", "RGBA")]
HEADS = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\x00\x00\x00WEBPVP8 "]


def outcome(data):
    try:
        return DECODER.decode(data)
    except Refusal as refusal:
        return refusal


def gives_a_picture_or_refuses(data):
    made = outcome(data)
    if isinstance(made, Refusal):
        assert made.status in (413, 422)
        assert made.detail
    else:
        assert (made.dtype, made.shape) == (np.uint8, (3, 32, 32))


@st.composite
def damaged(draw, pictures):
    """A real picture with bytes changed, taken out and put in, mostly near the head, where they say most."""
    data = bytearray(draw(st.sampled_from(pictures)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, min(len(data), draw(st.sampled_from([60, 300, 100_000])))))
        instead = draw(st.binary(max_size=4))
        data[place : place + draw(st.integers(0, 4))] = instead
    return bytes(data)


@given(st.binary(max_size=200) | st.builds(bytes.__add__, st.sampled_from(HEADS), st.binary(max_size=200)))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(data):
    with pytest.raises(Refusal):
        DECODER.decode(data)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_truncated_picture_is_a_picture_or_refused(data):
    whole = data.draw(st.sampled_from([*JPEGS, *PNGS, *GIFS, *WEBPS]))
    gives_a_picture_or_refuses(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(damaged(JPEGS))
@settings(max_examples=150, deadline=None)
def test_a_damaged_jpeg_is_a_picture_or_refused(data):
    gives_a_picture_or_refuses(data)


@given(damaged(GIFS))
@settings(max_examples=150, deadline=None)
def test_a_damaged_gif_is_a_picture_or_refused(data):
    gives_a_picture_or_refuses(data)


@given(damaged(WEBPS))
@settings(max_examples=150, deadline=None)
def test_a_damaged_webp_is_a_picture_or_refused(data):
    gives_a_picture_or_refuses(data)


def decode_damaged_pngs():
    """Run in a process of its own: one that dies of a picture takes no other test with it."""
    random.seed(11)
    for number in range(300):
        data = bytearray(PNGS[number % len(PNGS)])
        data[random.randrange(8, len(data))] ^= 1 << random.randrange(8)
        gives_a_picture_or_refuses(bytes(data))


def test_a_png_with_one_bit_flipped_is_a_picture_or_refused_and_kills_nobody():
    command = [sys.executable, "-W", "ignore", "-c", f"import {__name__} as it; it.decode_damaged_pngs()"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr[-2000:]
