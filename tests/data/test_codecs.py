"""Images are decoded as they are stored; a reduced decode shows the same image at a smaller size."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from cpnet_jax.data.codecs import decode_image, decode_label


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photograph-like image: smooth, with edges and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (height // 20 + 2, width // 20 + 2, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(float)
    image[height // 3 : height // 2, width // 4 : width // 2] = (200, 60, 90)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, **options) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def plain(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return np.abs(first.astype(float) - second).mean()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 50}], ids=str)
def test_jpeg_is_decoded_as_other_libraries_do(options):
    data = jpeg(photograph(75, 101), **options)
    pixels, reduction, size = decode_image(data)
    assert (reduction, size) == (1, (75, 101))
    assert difference(pixels, plain(data)) < 0.5


def test_grey_jpeg_has_three_equal_channels():
    data = jpeg(photograph(40, 60)[..., 0])
    assert np.array_equal(decode_image(data).pixels, plain(data))
    half = decode_image(data, 0.5).pixels
    assert half.shape == (20, 30, 3) and (half == half[..., :1]).all()


@pytest.mark.parametrize("scale", [1, 0.5])
def test_cmyk_jpeg_becomes_rgb(scale):
    image, file = photograph(40, 60), BytesIO()
    Image.fromarray(image).convert("CMYK").save(file, "JPEG", quality=95)
    smaller = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    assert difference(decode_image(file.getvalue(), scale).pixels, smaller) < 3


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("coding", ["JPEG", "PNG"])
def test_exif_orientation_is_not_applied(orientation, coding):
    image, exif, file = photograph(40, 60), Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(image).save(file, coding, exif=exif)
    assert difference(decode_image(file.getvalue()).pixels, image) < 6


def test_stray_bytes_are_skipped():
    """Files of well-known datasets have stray bytes between the image data and the end marker."""
    data = jpeg(photograph(40, 60))
    stray = data[:-2] + b"\x00\x00" + data[-2:]
    assert difference(decode_image(stray).pixels, plain(data)) < 0.5


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_jpeg_is_refused(scale, kept):
    data = jpeg(photograph(75, 101))
    with pytest.raises(ValueError):
        decode_image(data[: int(kept * len(data))], scale)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(2, 1), (1, 1), (0.75, 1), (0.51, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.2, 4), (0.125, 8), (0.01, 8)],
)
@pytest.mark.parametrize("size", [(64, 96), (75, 101), (17, 300)])
def test_a_jpeg_is_reduced_as_far_as_the_scale_allows(scale, expected, size):
    pixels, reduction, stored = decode_image(jpeg(photograph(*size)), scale)
    assert (reduction, stored) == (expected, size)
    assert pixels.shape == (*(-(-side // expected) for side in size), 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 40), (15, 15)])
def test_tiny_jpegs_are_not_reduced(size):
    assert decode_image(jpeg(photograph(*size)), 0.5).pixels.shape == (*size, 3)


@pytest.mark.parametrize("reduction", [2, 4])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_reduced_jpeg_is_the_mean_of_the_pixels_it_stands_for(reduction, subsampling):
    """A reduced DCT and block averaging differ by about half a grey level; an offset of a pixel would be far more."""
    data = jpeg(photograph(256, 320), subsampling=subsampling)
    pixels, found, _ = decode_image(data, 1 / reduction)
    assert found == reduction
    averaged = cv2.resize(plain(data), (320 // reduction, 256 // reduction), interpolation=cv2.INTER_AREA)
    assert difference(pixels, averaged) < 0.8
    shifted = np.roll(averaged, 1, axis=1)
    assert difference(pixels, shifted) > 2


def test_png_is_decoded_exactly_and_never_reduced():
    image = photograph(40, 60)
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    pixels, reduction, size = decode_image(data, 0.5)
    assert np.array_equal(pixels, image) and (reduction, size) == (1, (40, 60))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0 no picture", b"no picture"])
def test_data_that_is_not_an_image_is_refused(data):
    for decode in (decode_image, decode_label):
        with pytest.raises(ValueError):
            decode(data)
