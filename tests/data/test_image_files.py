"""Image files are read as they are stored, whatever their metadata; what cannot be read raises ValueError."""

import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from png_files import grey_png, with_chunk

from cpnet_jax.data.builders.base import read_indices
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.image_files import (
    TURNS,
    bits_of,
    has_more_frames,
    is_deep,
    open_image,
    orientation_of,
    pixel_values,
    stored_indices,
    stored_size,
    turn_upright,
)
from cpnet_jax.errors import UserError

SIZE = (20, 30)
RGB = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
WIDE = np.random.default_rng(1).integers(0, 2**16, (*SIZE, 3)).astype(np.uint16)


def encoded(image: Image.Image, coding: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, coding, **options)
    return file.getvalue()


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """Inserts a segment at the start of a JPEG."""
    return jpeg[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def long_texts() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("history", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    return encoded(Image.fromarray(RGB), "PNG", pnginfo=texts)


PNG = encoded(Image.fromarray(RGB), "PNG")
JPEG = encoded(Image.fromarray(RGB), "JPEG")
ODD_METADATA = {
    "a PNG with a long text": long_texts(),
    "a PNG with a long colour profile": with_chunk(PNG, b"iCCP", b"x\0\0" + zlib.compress(bytes(2**21))),
    "a PNG with a colour profile that is cut": with_chunk(PNG, b"iCCP", b"x\0\0" + zlib.compress(bytes(999))[:9]),
    "a PNG with malformed EXIF": with_chunk(PNG, b"eXIf", b"Exif\0\0nonsense"),
    "a PNG with EXIF that is cut": with_chunk(PNG, b"eXIf", b"MM\0*\0\0\0\x08\0\x09\x01"),
    "a PNG with a text of a wrong checksum": with_chunk(PNG, b"tEXt", b"a\0b", checksum=7),
    "a PNG with an empty palette chunk of physical sizes": with_chunk(PNG, b"pHYs", b""),
    "a JPEG with a malformed index of pictures": with_segment(
        JPEG, 0xE2, b"MPF\0" + b"II*\0\x08\0\0\0\xff\xff" + bytes(40)
    ),
    "a JPEG with malformed EXIF": with_segment(JPEG, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12"),
    "a JPEG with malformed Photoshop blocks": with_segment(JPEG, 0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD_METADATA)
def test_odd_metadata_do_not_matter(kind):
    image = open_image(ODD_METADATA[kind])
    plain = open_image(PNG if "PNG" in kind else JPEG)
    assert np.array_equal(np.asarray(image), np.asarray(plain))
    assert orientation_of(image) == 1 and image.format == plain.format


def test_the_orientation_survives_other_metadata_that_are_dropped():
    exif = Image.Exif()
    exif[0x0112] = 6
    png = with_chunk(encoded(Image.fromarray(RGB), "PNG", exif=exif), b"tEXt", b"a\0b", checksum=7)
    assert orientation_of(open_image(png)) == 6


def test_postscript_is_never_interpreted():
    eps = encoded(Image.fromarray(RGB), "EPS")
    with pytest.raises(ValueError, match="not a JPEG"):
        open_image(eps)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("stored", [RGB, WIDE, WIDE[..., 0]], ids=["8 bits", "16 bits", "grey 16 bits"])
def test_a_turned_tiff_is_read_as_it_is_stored(orientation, stored, tmp_path):
    data = cv2.imencode(".tiff", stored[..., ::-1] if stored.ndim == 3 else stored)[1].tobytes()
    data = with_orientation(data, orientation)
    image = open_image(data)
    assert (image.size, orientation_of(image), image.format) == (SIZE[::-1], orientation, "TIFF")
    assert np.array_equal(pixel_values(image, data), stored)
    (tmp_path / "a.tif").write_bytes(data)
    assert stored_size(tmp_path / "a.tif") == SIZE[::-1]


def with_orientation(tiff: bytes, orientation: int) -> bytes:
    """Sets the orientation of a little-endian TIFF of one picture: appends a directory that has it."""
    start = struct.unpack_from("<I", tiff, 4)[0]
    count = struct.unpack_from("<H", tiff, start)[0]
    entries = [tiff[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != 274]
    entries.append(struct.pack("<HHIHH", 274, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory


def test_turning_upright_agrees_with_pillow():
    for orientation in TURNS:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = open_image(encoded(Image.fromarray(RGB), "PNG", exif=exif))
        assert np.array_equal(turn_upright(RGB, orientation), np.asarray(ImageOps.exif_transpose(image)))


DEEP = {
    "grey PNG": (".png", WIDE[..., 0]),
    "colour PNG": (".png", WIDE),
    "grey TIFF": (".tiff", WIDE[..., 0]),
    "colour TIFF": (".tiff", WIDE),
    "signed TIFF": (".tiff", WIDE[..., 0].astype(np.int16)),
    "32-bit TIFF": (".tiff", WIDE[..., 0].astype(np.int32) * 7 - 5),
    "float TIFF": (".tiff", WIDE[..., 0].astype(np.float32) / 7),
}


@pytest.mark.parametrize("kind", DEEP)
def test_values_of_more_than_8_bits_are_read_as_they_are_stored(kind):
    ending, stored = DEEP[kind]
    data = cv2.imencode(ending, stored)[1].tobytes()
    assert is_deep(data)
    values = pixel_values(open_image(data), data)
    assert values.dtype != np.uint8
    assert np.array_equal(values, stored if stored.ndim == 2 else stored[..., ::-1])


def test_alpha_of_16_bits_is_dropped():
    data = cv2.imencode(".png", np.dstack([WIDE, WIDE[..., :1]]))[1].tobytes()
    assert np.array_equal(pixel_values(open_image(data), data), WIDE[..., ::-1])


@pytest.mark.parametrize("coding", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP"])
def test_images_of_8_bits_are_not_deep(coding):
    assert not is_deep(encoded(Image.fromarray(RGB), coding))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indices_are_the_numbers_that_the_file_holds(bits):
    indices = np.random.default_rng(2).integers(0, 2**bits, (9, 13)).astype(np.uint8)
    data = grey_png(indices, bits)
    image = open_image(data)
    assert np.array_equal(stored_indices(image, bits_of(image, data)), indices)


NOT_IMAGES = {
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "a web page": (b"\n<!DOCTYPE html><html><body>Forbidden</body></html>", "web page"),
    "a HEIC photograph": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "a TIFF of 32-bit colours": (cv2.imencode(".tiff", WIDE.astype(np.float32))[1].tobytes(), "8 or 16 bits"),
    "an empty file": (b"", "empty"),
    "text": (b"no picture", "not a JPEG"),
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_a_file_that_is_no_image_is_named_as_what_it_is(kind):
    data, named = NOT_IMAGES[kind]
    with pytest.raises(ValueError, match=named):
        open_image(data)


@pytest.mark.parametrize("coding", ["TIFF", "GIF", "PNG", "WEBP"])
def test_several_frames_are_noticed(coding):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    assert has_more_frames(encoded(first, coding, save_all=True, append_images=[second]))
    assert not has_more_frames(encoded(first, coding))


def test_smaller_pages_of_a_tiff_are_previews():
    preview = Image.fromarray(RGB).resize((8, 5))
    assert not has_more_frames(encoded(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[preview]))


@pytest.mark.parametrize("coding", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_a_truncated_image_is_refused(coding):
    data = encoded(Image.fromarray(RGB), coding)
    with pytest.raises(ValueError, match="damaged"):
        open_image(data[: len(data) // 2])


@pytest.mark.parametrize("ending", ["gif", "tif"])
def test_labels_of_several_pages_are_refused(tmp_path, ending):
    page, other = (Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (1, 2))
    page.save(tmp_path / f"a.{ending}", save_all=True, append_images=[other])
    with pytest.raises(UserError, match=f"a.{ending} has several pages"):
        read_indices(Source(tmp_path), f"a.{ending}")


TWO_PICTURES = {"save_all": True, "append_images": [Image.new("L", (4, 4))]}


@pytest.mark.parametrize(
    ("coding", "options"), [("JPEG", {}), ("MPO", TWO_PICTURES), ("TIFF", {"compression": "jpeg"})]
)
def test_labels_that_jpeg_has_changed_are_refused(tmp_path, coding, options):
    Image.new("L", (4, 4), 1).save(tmp_path / "a", coding, **options)
    with pytest.raises(UserError, match="a is compressed as JPEG"):
        read_indices(Source(tmp_path), "a")
