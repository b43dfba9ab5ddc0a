"""Pictures to arrays, as training made them."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2

from service.errors import TooLarge, Unprocessable
from service.tasks.inputs.picture import MODERATE, MOST_PASSES, QUICK, ImageDecoder, luma
from service.tasks.inputs.spec import InputSpec
from tests.support import jpegs
from tests.support.models import flower

SPEC = InputSpec(resize=72, crop=64)
DECODER = ImageDecoder(SPEC, max_pixels=1_000_000)
SMALL = ImageDecoder(InputSpec(resize=8, crop=8), max_pixels=64 * 48)


def picture(width=150, height=100, mode="RGB"):
    """A piece of a real photograph."""
    with Image.open(io.BytesIO(flower())) as file:
        return file.resize((width, height)).convert(mode)


def encoded(image, kind, **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def as_trained(data, spec=SPEC):
    """PIL and torchvision's transforms: what a training script does."""
    with Image.open(io.BytesIO(data)) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    steps = [
        v2.PILToTensor(),
        v2.Resize(spec.resize, interpolation=InterpolationMode(spec.interpolation), antialias=True),
        *([v2.CenterCrop(spec.crop)] if spec.crop else []),
    ]
    return v2.Compose(steps)(image).numpy()


def rotated(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def header_only(width, height):
    """A PNG that promises a size and holds no pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def sixteen_bits(width, height, colour, samples):
    """A PNG of sixteen bits a sample."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(2 * samples * width)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def transparent():
    image = picture(mode="RGBA")
    image.putalpha(picture(mode="L"))
    return image


KINDS = {
    "a JPEG": lambda: encoded(picture(), "JPEG", quality=90),
    "a JPEG of full colour": lambda: encoded(picture(), "JPEG", subsampling=0),
    "a progressive JPEG": lambda: encoded(picture(), "JPEG", progressive=True),
    "a grey JPEG": lambda: encoded(picture(mode="L"), "JPEG"),
    "a CMYK JPEG": lambda: encoded(picture(mode="CMYK"), "JPEG"),
    "a PNG": lambda: encoded(picture(), "PNG"),
    "a grey PNG": lambda: encoded(picture(mode="L"), "PNG"),
    "a black-and-white PNG": lambda: encoded(picture(mode="1"), "PNG"),
    "a PNG with a palette": lambda: encoded(picture(mode="P"), "PNG"),
    "a PNG with transparency": lambda: encoded(transparent(), "PNG"),
    "a PNG with a palette and transparency": lambda: encoded(picture().quantize(16), "PNG", transparency=3),
    "a GIF": lambda: encoded(picture(), "GIF"),
    "a grey GIF": lambda: encoded(picture(mode="L"), "GIF"),
    "a GIF with transparency": lambda: encoded(picture().quantize(16), "GIF", transparency=3),
    "a WebP": lambda: encoded(picture(), "WEBP", quality=80),
    "a lossless WebP": lambda: encoded(picture(), "WEBP", lossless=True),
    "a WebP with transparency": lambda: encoded(transparent(), "WEBP", lossless=True),
    "a picture smaller than the input": lambda: encoded(picture(20, 30), "PNG"),
    "a picture of the input's size": lambda: encoded(picture(64, 64), "PNG"),
    "a whole photograph": flower,
    "a tall picture": lambda: encoded(picture(100, 301), "JPEG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decoded_is_what_training_saw(kind):
    data = KINDS[kind]()
    image = DECODER.decode(data)
    assert (image.dtype, image.shape) == (np.uint8, (3, 64, 64))
    assert image.flags.c_contiguous
    assert np.array_equal(image, as_trained(data))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), [(72, 64), (65, 65), (200, 31)])
def test_it_is_fitted_as_the_card_says(interpolation, resize, crop):
    spec = InputSpec(resize=resize, crop=crop, interpolation=interpolation)
    data = encoded(picture(), "PNG")
    assert np.array_equal(ImageDecoder(spec, 1_000_000).decode(data), as_trained(data, spec))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(48, 80), (300, 31), (100, 150)])
def test_it_is_stretched_to_the_height_and_width_of_the_card(interpolation, size):
    spec = InputSpec(resize=size, interpolation=interpolation)
    image = ImageDecoder(spec, 1_000_000).decode(flower())
    assert (image.shape, image.flags.c_contiguous) == ((3, *size), True)
    assert np.array_equal(image, as_trained(flower(), spec))


@pytest.mark.parametrize("how", [{"resize": 72, "crop": 64}, {"resize": (48, 80)}])
def test_a_grey_model_sees_what_torchvision_makes_grey(how):
    image = ImageDecoder(InputSpec(mean=[127], std=[64], **how), 1_000_000).decode(flower())
    coloured = torch.from_numpy(as_trained(flower(), InputSpec(**how)))
    expected = v2.PILToTensor()(v2.Grayscale()(v2.ToPILImage()(coloured))).numpy()
    assert image.flags.c_contiguous
    assert np.array_equal(image, expected)
    assert abs(image.astype(int) - v2.Grayscale()(coloured).numpy().astype(int)).max() <= 1


def test_grey_stays_what_it_is_for_a_grey_model():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(luma(values.expand(3, 1, 256)), values.view(1, 1, 256))
    data = encoded(picture(mode="L"), "PNG")
    spec = InputSpec(resize=(100, 150), mean=[127], std=[64])
    with Image.open(io.BytesIO(data)) as file:
        assert np.array_equal(ImageDecoder(spec, 100_000).decode(data), v2.PILToTensor()(file).numpy())


def test_a_grey_model_takes_numbers_as_others_do():
    spec = InputSpec(resize=(1, 2), mean=[127], std=[64])
    image = ImageDecoder(spec, 100).from_pixels([[[255, 0, 0], [9, 9, 9]]])
    assert image.tolist() == [[[76, 9]]]


def test_a_picture_that_stretching_would_make_too_large_on_the_way_is_refused():
    decoder = ImageDecoder(InputSpec(resize=(10, 1000)), max_pixels=100_000)
    with pytest.raises(Unprocessable, match="stretched to 1000 x 10, as the model needs it"):
        decoder.decode(encoded(Image.new("RGB", (2, 101)), "PNG"))
    assert decoder.decode(encoded(Image.new("RGB", (2, 100)), "PNG")).shape == (3, 10, 1000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(kind, orientation):
    data = encoded(picture(), kind, exif=rotated(orientation))
    assert np.array_equal(DECODER.decode(data), as_trained(data))


def test_of_sixteen_bits_the_upper_eight_are_the_picture():
    eight = picture(mode="L")
    sixteen = Image.new("I;16", eight.size)
    sixteen.putdata([256 * value + 255 - value for value in eight.tobytes()])
    one, other = (DECODER.decode(encoded(image, "PNG")).astype(int) for image in (sixteen, eight))
    assert abs(one - other).max() <= 2


def test_any_thread_may_decode():
    pictures = [encoded(picture(90 + n, 80), "JPEG") for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(DECODER.decode, pictures))
    assert all(np.array_equal(image, DECODER.decode(data)) for image, data in zip(together, pictures, strict=True))


def test_of_a_thousand_frames_the_first_is_the_picture():
    frames = [Image.new("RGB", (80, 70), (n % 256, n // 4, 99)) for n in range(1000)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as file:
        assert file.n_frames == 1000
    assert np.array_equal(DECODER.decode(data), np.broadcast_to(np.array([[[0]], [[0]], [[99]]]), (3, 64, 64)))


def test_what_follows_a_gifs_first_frame_is_not_looked_at():
    whole = encoded(picture(), "GIF")
    assert whole[-1:] == b";"
    assert np.array_equal(DECODER.decode(whole[:-1] + b"\x2c" + bytes(range(256))), DECODER.decode(whole))


def test_of_an_animated_png_the_first_frame_is_the_picture():
    data = encoded(picture(), "PNG", save_all=True, append_images=[ImageOps.invert(picture())])
    assert np.array_equal(DECODER.decode(data), DECODER.decode(encoded(picture(), "PNG")))


def test_of_an_animated_webp_the_first_frame_is_the_picture():
    data = encoded(picture(), "WEBP", lossless=True, save_all=True, append_images=[ImageOps.invert(picture())])
    assert np.array_equal(DECODER.decode(data), DECODER.decode(encoded(picture(), "WEBP", lossless=True)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"a picture",
        b"%PDF-1.7",
    ],
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(Unprocessable, match="not a picture in a supported format; send a JPEG, PNG, GIF or WebP file"):
        DECODER.decode(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xd8\xff", "The JPEG is broken: it ends within its header"),
        (b"\x89PNG\r\n\x1a\n", "The PNG is broken: it does not begin with a header"),
        (b"GIF89a", "The GIF is broken: it ends within its header"),
        (b"RIFF\x04\x00\x00\x00WEBP", "The WebP is broken: it ends before its size"),
    ],
)
def test_what_begins_as_a_picture_and_ends_at_once_is_called_by_its_name(data, words):
    with pytest.raises(Unprocessable, match=words):
        DECODER.decode(data)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO"])
def test_a_picture_of_another_kind_is_refused(kind):
    with pytest.raises(Unprocessable, match="not a picture in a supported format"):
        DECODER.decode(encoded(picture(), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_half_a_picture_is_refused_without_naming_a_source_file(kind):
    data = encoded(picture(), kind)
    with pytest.raises(Unprocessable, match=f"The {kind} is broken: ") as caught:
        DECODER.decode(data[: len(data) // 2])
    assert ".cpp" not in caught.value.detail
    assert "\n" not in caught.value.detail


def test_half_a_webp_is_refused():
    data = encoded(picture(), "WEBP")
    with pytest.raises(Unprocessable):
        DECODER.decode(data[: len(data) // 2])


def test_a_picture_of_as_many_pixels_as_allowed_is_decoded():
    assert SMALL.decode(encoded(picture(64, 48), "PNG")).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_picture_of_more_pixels_than_allowed_is_too_large(kind):
    with pytest.raises(TooLarge, match="64 x 49; at most 3,072 pixels are allowed"):
        SMALL.decode(encoded(picture(64, 49), kind))


def test_a_size_that_is_only_promised_is_refused_from_the_header():
    with pytest.raises(TooLarge, match="2000000000 x 2000000000"):
        DECODER.decode(header_only(2_000_000_000, 2_000_000_000))


def test_a_picture_so_thin_that_fitting_it_would_make_it_too_large_is_refused():
    with pytest.raises(Unprocessable, match="1 x 3000: with its shorter side at 72 pixels"):
        DECODER.decode(encoded(picture(1, 3000), "PNG"))


def test_numbers_are_the_picture_that_they_spell():
    image = picture()
    rows = [[list(image.getpixel((x, y))) for x in range(image.width)] for y in range(image.height)]
    spelt = DECODER.from_pixels(rows)
    assert (spelt.dtype, spelt.flags.c_contiguous) == (np.uint8, True)
    assert np.array_equal(spelt, DECODER.decode(encoded(image, "PNG")))


def test_numbers_with_a_point_are_the_same_picture():
    rows = [[[float(x), float(y), 200.0] for x in range(100)] for y in range(90)]
    assert np.array_equal(
        DECODER.from_pixels(rows), DECODER.from_pixels([[[x, y, 200] for x in range(100)] for y in range(90)])
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "The picture has no pixels"),
        ([[]], "The picture has no pixels"),
        ([[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]], "differ in length"),
        ([[[1, 2, 3], [1, 2]]], "differ in length"),
        ([[[1, 2, 3, 4]]], r"this one is \(1, 1, 4\)"),
        ([[[1]]], r"this one is \(1, 1, 1\)"),
        ([[[1.0, 2.5, 3.0]]], "A pixel has the value 2.5; values must be whole numbers"),
    ],
)
def test_numbers_that_are_no_picture_are_refused(rows, words):
    with pytest.raises(Unprocessable, match=words):
        DECODER.from_pixels(rows)


def test_numbers_of_more_pixels_than_allowed_are_too_large():
    with pytest.raises(TooLarge, match="64 x 49"):
        SMALL.from_pixels([[[0, 0, 0]] * 64] * 49)


def flat(width, height):
    """A picture whose file is small whatever its size."""
    data = encoded(Image.new("RGB", (width, height), "teal"), "GIF")
    assert len(data) <= QUICK.file_bytes
    return data


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_a_small_picture_is_quick_and_decoded_as_any_other(kind):
    data = encoded(picture(60, 50), kind)
    assert np.array_equal(DECODER.decode_within(QUICK, data), DECODER.decode(data))


def test_a_long_file_is_not_quick_whatever_is_in_it():
    assert DECODER.decode_within(QUICK, bytes(QUICK.file_bytes + 1)) is None


def test_a_picture_of_many_pixels_is_not_quick_however_short_its_file():
    assert DECODER.decode_within(QUICK, flat(200, QUICK.pixels // 200)) is not None
    assert DECODER.decode_within(QUICK, flat(201, QUICK.pixels // 200)) is None


def test_a_small_picture_that_becomes_large_by_resizing_is_not_quick():
    assert DECODER.decode_within(QUICK, flat(10, 70)) is not None
    assert DECODER.decode_within(QUICK, flat(10, 80)) is None


def test_a_file_that_is_long_for_its_pixels_is_not_quick_where_its_format_can_make_that_work():
    pixels = encoded(picture(60, 50), "PNG")
    assert DECODER.decode_within(QUICK, pixels) is None, "each byte of deflate may cost as much as ten pixels"
    assert DECODER.decode_within(MODERATE, pixels) is not None
    assert DECODER.decode_within(QUICK, encoded(picture(60, 50), "WEBP", lossless=True)) is None


@pytest.mark.parametrize(("colour", "fits"), [(2, True), (6, False), (0, True), (4, True)])
def test_a_png_of_sixteen_bits_counts_the_bytes_of_its_pixels(colour, fits):
    """At sixteen bits, three colours have six bytes a pixel and four have eight; four times max_pixels are allowed."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    width, height = (60, 30) if colour == 2 else (64, 48)
    data = sixteen_bits(width, height, colour, samples)
    if fits:
        assert SMALL.decode(data).shape == (3, 8, 8)
    else:
        with pytest.raises(TooLarge, match="64 x 48 with 8 bytes a pixel; 12,288 bytes are allowed"):
            SMALL.decode(data)


def test_a_moderate_picture_is_decoded_as_any_other_where_nobody_waits():
    data = encoded(picture(640, 480), "JPEG")
    assert DECODER.decode_within(QUICK, data) is None
    assert np.array_equal(DECODER.decode_within(MODERATE, data), DECODER.decode(data))


def test_a_short_file_that_is_no_picture_is_refused_at_once():
    with pytest.raises(Unprocessable, match="not a picture in a supported format"):
        DECODER.decode_within(QUICK, b"a picture")


def test_a_short_file_that_promises_too_many_pixels_is_refused_at_once():
    with pytest.raises(TooLarge):
        DECODER.decode_within(QUICK, header_only(2000, 2000))


def scans(count, side=64):
    """A JPEG of `side` x `side`, progressive, with this many scans that hold nothing."""
    return jpegs.progressive(side, side, count)


def test_as_many_scans_as_allowed_are_decoded_and_one_more_is_too_large():
    decoder = ImageDecoder(InputSpec(resize=8, crop=8), max_pixels=64 * 64)
    assert decoder.decode(scans(MOST_PASSES)).shape == (3, 8, 8)
    with pytest.raises(TooLarge, match=f"over the pixels {MOST_PASSES + 1} times; {MOST_PASSES} times are allowed"):
        decoder.decode(scans(MOST_PASSES + 1))


def test_a_smaller_picture_may_have_more_scans():
    assert DECODER.decode(scans(MOST_PASSES * 100)).shape == (3, 64, 64)


def test_a_thin_picture_counts_as_the_whole_blocks_that_are_decoded():
    with pytest.raises(TooLarge):
        ImageDecoder(InputSpec(resize=1, crop=1), 100_000).decode(jpegs.progressive(1, 10_000, MOST_PASSES))


def test_scans_are_counted_where_it_is_decided_who_decodes():
    assert DECODER.decode_within(QUICK, scans(1)) is not None
    assert DECODER.decode_within(QUICK, scans(200)) is None


def test_a_second_frame_header_hides_no_pixels():
    """The decoder goes by the first one too, and refuses a second."""
    data = encoded(picture(150, 100), "JPEG")
    start = data.index(b"\xff\xc0")
    length = 2 + int.from_bytes(data[start + 2 : start + 4])
    header = data[start : start + length]
    small = header[:5] + struct.pack(">HH", 10, 10) + header[9:]
    with pytest.raises(Unprocessable, match="broken"):
        DECODER.decode(data[:start] + small + data[start:])
