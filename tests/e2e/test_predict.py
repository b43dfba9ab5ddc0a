"""POST /predict over a real socket: the answers are those of a direct forward."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support.models import assert_right, direct, photographs

JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def one(two_models):
    return direct(two_models, "one")


@pytest.fixture(scope="module")
def two(two_models):
    return direct(two_models, "two")


def test_a_picture_alone_gets_the_answer_of_a_direct_forward(server, one):
    for picture in photographs():
        answer = httpx.post(f"{server.url}/predict", content=picture, headers=JPEG)
        assert answer.status_code == 200, answer.text
        assert_right(answer.json(), one, picture)


def test_the_models_of_these_tests_tell_pictures_and_each_other_apart(one, two):
    answers = [model.probabilities(picture) for model in (one, two) for picture in photographs()]
    for left, right in itertools.combinations(answers, 2):
        assert (left - right).abs().max() > 1e-3


def test_sixty_four_clients_with_two_models_get_their_own_answers(server, one, two):
    async def client(session: httpx.AsyncClient, number: int) -> list[tuple[int, int, httpx.Response]]:
        got = []
        for turn in range(4):
            which, model = (number * 5 + turn) % len(photographs()), (number + turn) % 2
            path = f"{server.url}/models/{('one', 'two')[model]}/predict"
            got.append((which, model, await session.post(path, content=photographs()[which], headers=JPEG)))
        return got

    async def scene():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(limits=limits, timeout=60) as session:
            return await asyncio.gather(*(client(session, number) for number in range(64)))

    answers = [answer for got in asyncio.run(scene()) for answer in got]
    assert len(answers) == 256
    for which, model, answer in answers:
        assert answer.status_code == 200, answer.text
        assert_right(answer.json(), (one, two)[model], photographs()[which])


def test_a_multipart_of_several_is_answered_in_order(server, one):
    pictures = photographs()[:11]  # more than a batch of eight, and no rung of the ladder
    files = [("file", (f"{n}.jpg", picture, "image/jpeg")) for n, picture in enumerate(pictures)]
    answer = httpx.post(f"{server.url}/predict", files=files)
    assert answer.status_code == 200, answer.text
    assert_right(answer.json(), one, *pictures)


@pytest.mark.parametrize("query", ["", "?top_k=3"])
def test_top_k_may_stand_in_a_form_and_in_json(server, one, query):
    picture = photographs()[0]
    form = {"files": {"file": ("a.jpg", picture)}, "data": {"top_k": "3"}}
    body = {"json": {"instances": [{"b64": base64.b64encode(picture).decode()}], "top_k": 3}}
    for sent in (form, body):
        answer = httpx.post(f"{server.url}/predict{query}", **sent)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"][0]["classes"]) == 3
        assert_right(answer.json(), one, picture)


def test_json_takes_base64_and_data_urls(server, one):
    text = base64.b64encode(photographs()[0]).decode()
    body = {"instances": [{"b64": text}, {"b64": f"data:image/jpeg;base64,{text}"}]}
    answer = httpx.post(f"{server.url}/predict", json=body)
    assert answer.status_code == 200, answer.text
    assert_right(answer.json(), one, photographs()[0], photographs()[0])


def test_json_takes_nested_numbers_as_pictures(server, one):
    rows = np.asarray(Image.open(io.BytesIO(photographs()[0])).convert("RGB").resize((90, 80)))
    lossless = io.BytesIO()
    Image.fromarray(rows).save(lossless, "PNG")
    answer = httpx.post(f"{server.url}/predict", json={"instances": [rows.tolist()]})
    assert answer.status_code == 200, answer.text
    assert_right(answer.json(), one, lossless.getvalue())


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _photograph() -> Image.Image:
    return Image.open(io.BytesIO(photographs()[0])).convert("RGB")


def _rotated(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _file(image, "JPEG", quality=95, exif=exif)


KINDS = {
    "grey JPEG": lambda image: _file(image.convert("L"), "JPEG"),
    "CMYK JPEG": lambda image: _file(image.convert("CMYK"), "JPEG"),
    "progressive JPEG": lambda image: _file(image, "JPEG", progressive=True),
    "PNG": lambda image: _file(image, "PNG"),
    "palette PNG": lambda image: _file(image.convert("P"), "PNG"),
    "grey and alpha PNG": lambda image: _file(image.convert("LA"), "PNG"),
    "1x1 PNG": lambda image: _file(image.resize((1, 1)), "PNG"),
    "GIF": lambda image: _file(image, "GIF"),
    "animated GIF": lambda image: _file(image, "GIF", save_all=True, append_images=[ImageOps.invert(image)]),
    "WebP": lambda image: _file(image, "WEBP", lossless=True),
    **{f"EXIF orientation {n}": lambda image, n=n: _rotated(image, n) for n in range(2, 9)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_seen_as_pil_sees_it(server, one, kind):
    data = KINDS[kind](_photograph())
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    answer = httpx.post(f"{server.url}/predict", content=data, headers={"Content-Type": "image/*"})
    assert answer.status_code == 200, answer.text
    assert_right(answer.json(), one, _file(seen, "PNG"))


def test_a_16_bit_png_is_scaled_to_8_bits(server, one):
    grey = np.asarray(_photograph().convert("L"))
    deep = _file(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    answer = httpx.post(f"{server.url}/predict", content=deep, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    assert_right(answer.json(), one, _file(Image.fromarray(grey), "PNG"))


def test_top_k_says_how_many_and_a_hundred_is_the_most(server, one):
    for top_k in (1, 5, 100):
        answer = httpx.post(f"{server.url}/predict?top_k={top_k}", content=photographs()[0], headers=JPEG)
        assert len(answer.json()["predictions"][0]["classes"]) == top_k
        assert_right(answer.json(), one, photographs()[0])


def test_an_answer_says_where_its_time_went_and_whose_it_is(server):
    answer = httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG | {"X-Request-Id": "mine-1"})
    stages = dict(part.strip().split(";dur=") for part in answer.headers["Server-Timing"].split(","))
    assert list(stages) == ["decode", "queue", "forward", "total"]
    assert 0 < float(stages["forward"]) < float(stages["total"])
    assert answer.headers["X-Request-Id"] == "mine-1"


def test_a_request_id_that_could_forge_a_header_or_a_log_line_is_replaced(server):
    answer = httpx.get(f"{server.url}/health/live", headers={"X-Request-Id": "a b\tc<script>"})
    assert len(answer.headers["X-Request-Id"]) == 32
