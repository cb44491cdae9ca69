"""Every kind of image file is read as upright 8-bit RGB; an unreadable one raises an error that names it."""

import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from cpnet_jax.data.codecs import decode_image
from cpnet_jax.data.image_files import TURNS
from cpnet_jax.errors import UserError
from cpnet_jax.inference.images import read_ahead, read_image

SIZE = (40, 60)
BLOCKS = np.random.default_rng(0).integers(40, 216, (4, 5, 3)).astype(np.uint8)
RGB = cv2.resize(BLOCKS, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
GREY = RGB[..., 1]
ALPHA = np.random.default_rng(1).integers(0, 256, SIZE).astype(np.uint8)
WIDE = np.random.default_rng(2).integers(0, 2**16, (*SIZE, 3)).astype(np.uint16)


def three(channel: np.ndarray) -> np.ndarray:
    return np.repeat(channel[..., None], 3, axis=-1)


def palette_picture() -> tuple[Image.Image, np.ndarray]:
    """An image with a transparent colour, and its RGB values."""
    indices = (np.arange(SIZE[0] * SIZE[1]) % 7).astype(np.uint8).reshape(SIZE)
    colours = np.random.default_rng(3).integers(0, 256, (7, 3)).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel())
    image.putpalette(colours.ravel().tolist())
    image.info["transparency"] = 2
    return image, colours[indices]


LOSSLESS = {
    "colour png": (Image.fromarray(RGB), "a.png", {}, RGB),
    "colour bmp": (Image.fromarray(RGB), "a.bmp", {}, RGB),
    "colour tiff": (Image.fromarray(RGB), "a.tif", {"compression": "tiff_lzw"}, RGB),
    "colour webp": (Image.fromarray(RGB), "a.webp", {"lossless": True}, RGB),
    "grey png": (Image.fromarray(GREY), "a.png", {}, three(GREY)),
    "grey tiff": (Image.fromarray(GREY), "a.tiff", {}, three(GREY)),
    "black and white": (Image.fromarray(GREY > 128), "a.png", {}, three((GREY > 128) * np.uint8(255))),
    "grey and transparent": (Image.fromarray(np.dstack([GREY, ALPHA])), "a.png", {}, three(GREY)),
    "transparent png": (Image.fromarray(np.dstack([RGB, ALPHA])), "a.png", {}, RGB),
    "transparent webp": (Image.fromarray(np.dstack([RGB, ALPHA])), "a.webp", {"lossless": True, "exact": True}, RGB),
    "palette png": (palette_picture()[0], "a.png", {}, palette_picture()[1]),
    "palette gif": (palette_picture()[0], "a.gif", {}, palette_picture()[1]),
    "one pixel": (Image.fromarray(RGB[:1, :1]), "a.png", {}, RGB[:1, :1]),
    "named as another format": (Image.fromarray(RGB), "a.jpg", {"format": "PNG"}, RGB),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_what_is_stored_exactly_is_read_exactly(tmp_path, kind):
    image, name, options, shown = LOSSLESS[kind]
    image.save(tmp_path / name, **options)
    pixels = read_image(tmp_path / name)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, shown)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_are_scaled_as_training_scales_them(tmp_path, ending):
    for place, stored in enumerate((WIDE, WIDE[..., 0])):
        path = tmp_path / f"{place}.{ending}"
        cv2.imwrite(str(path), stored)
        pixels = read_image(path)
        shown = (stored >> 8).astype(np.uint8)
        assert np.array_equal(pixels, shown[..., ::-1] if stored.ndim == 3 else three(shown))
        # OpenCV rounds what it reads from TIFFs.
        assert np.abs(pixels.astype(int) - decode_image(path.read_bytes()).pixels).max() <= (ending == "tiff")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_jpeg_pixels_equal_those_that_training_reads(tmp_path, mode, options):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).convert(mode).save(path, **options)
    assert np.array_equal(read_image(path), decode_image(path.read_bytes()).pixels)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_not_read_as_its_negative(tmp_path, name):
    """CMYK JPEGs are stored inverted, as Adobe does; CMYK TIFFs are not."""
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / name, **({"quality": 95} if name == "a.jpg" else {}))
    assert (b"Adobe" in (tmp_path / name).read_bytes()) == (name == "a.jpg")
    assert np.abs(read_image(tmp_path / name).astype(int) - RGB).mean() < 2


def turned(orientation: int) -> np.ndarray:
    """The upright RGB as stored by a camera with this EXIF orientation."""
    stored = {2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1]}
    across = RGB.transpose(1, 0, 2)
    stored |= {5: across, 6: across[::-1], 7: across[::-1, ::-1], 8: across[:, ::-1]}
    return np.ascontiguousarray(stored[orientation])


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_the_cameras_orientation_is_followed(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 95, "subsampling": 0}}.get(name, {})
    Image.fromarray(turned(orientation)).save(tmp_path / name, exif=exif, **options)
    pixels = read_image(tmp_path / name)
    assert pixels.shape == RGB.shape
    assert np.abs(pixels.astype(int) - RGB).max() <= (8 if name == "a.jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_matter(tmp_path):
    exif, file = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(file, "JPEG", exif=exif)
    data = file.getvalue()
    start = data.index(b"Exif\0\0") + 6
    for begin, end in ((0, 8), (8, 26), (2, 26)):
        path = tmp_path / "a.jpg"
        path.write_bytes(data[: start + begin] + b"\xff" * (end - begin) + data[start + end :])
        assert read_image(path).shape == RGB.shape


def test_the_first_of_several_frames_is_read(tmp_path):
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    for name in ("a.gif", "a.tif"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert np.array_equal(read_image(tmp_path / name), three(GREY))


def encoded(coding: str) -> bytes:
    file = BytesIO()
    # Noise, so that half a file is no whole picture.
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(file, coding)
    return file.getvalue()


def bomb(side: int = 50_000) -> bytes:
    """A small PNG file with very many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


def float_tiff() -> bytes:
    file = BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(file, "TIFF")
    return file.getvalue()


BAD = {
    "empty": (b"", "it is empty"),
    "text": (b"no picture", "not a JPEG"),
    "only a start": (b"\xff\xd8\xff\xe0", "damaged"),
    "a bomb": (bomb(), "million pixels"),
    "floats": (float_tiff(), "8 or 16 bits"),
    **{f"half a {coding}": (encoded(coding)[: len(encoded(coding)) // 2], "damaged") for coding in
       ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")},
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_an_unreadable_file_raises_one_sentence_that_names_it(tmp_path, kind):
    data, said = BAD[kind]
    path = tmp_path / "bad.img"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read: ") and said in message and "\n" not in message


@pytest.mark.parametrize("kind", ["missing", "a folder", "a broken link"])
def test_a_path_that_is_not_a_file_raises_too(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "a folder":
        path.mkdir()
    if kind == "a broken link":
        path.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"x\.png cannot be read: (no such file|is a directory)"):
        read_image(path)


def test_reading_ahead_keeps_the_order_and_is_bounded():
    started = []

    def read(item: int) -> int:
        started.append(item)
        return 10 * item

    results = read_ahead(read, range(50), threads=3)
    assert [next(results) for _ in range(5)] == [0, 10, 20, 30, 40]
    assert len(started) <= 5 + 3
    assert list(results) == [10 * item for item in range(5, 50)]
