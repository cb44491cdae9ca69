"""Reads randomly damaged files:  python mutated_files.py COUNT SEED KIND [KIND ...]

Prints a line of JSON for each kind: how many of COUNT were read, and how many were refused by UserError or ValueError.
Any other exception ends it with a traceback, and the damaged file in the current folder.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import exported_files
import numpy as np
import png_files
from faults import text_files
from PIL import Image
from scipy.io import savemat

from cpnet_jax import sharding
from cpnet_jax.data import codecs
from cpnet_jax.data.builders.base import open_image, read_indices, stored_image, translate
from cpnet_jax.data.builders.masks import format_of, training_ids
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.builders.voc_devkit import read_matrix
from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.data.image_files import bits_of, has_more_frames, is_deep, orientation_of
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import load_exported
from cpnet_jax.inference.images import read_image
from cpnet_jax.inference.submissions import FORMATS
from cpnet_jax.inference.submissions.validation import validate

SLOWEST = 120.0  # seconds for one file; a changed header may announce 178 million pixels, which take half a minute
RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
INDICES = np.random.default_rng(1).integers(0, 3, (24, 40)).astype(np.uint8)
TABLE = parse("road 128 64 128\nsky 70 130 180\ntree 107 142 35\n", "classes.txt")


class InMemory:
    """A source of one file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, name: str) -> bytes:
        return self._data

    def where(self, name: str) -> str:
        return f"here/{name}"


def encoded(pixels: np.ndarray | Image.Image, coding: str, **options) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, coding, **({} if coding in ("BMP", "GIF") else {"exif": exif}), **options)
    return file.getvalue()


def paletted() -> Image.Image:
    image = Image.fromarray(INDICES)
    image.putpalette([128, 64, 128, 70, 130, 180, 107, 142, 35])
    return image


def matlab(**variables) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=len(variables) > 1)
    return file.getvalue()


def packed(compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("images/a.png", encoded(RGB, "PNG"))
        archive.writestr("masks/a.png", encoded(INDICES, "PNG"))
    return file.getvalue()


def read_as_image(data: bytes, folder: Path) -> None:
    """Reads a file in every way in which the program reads images."""
    path = folder / "image"
    path.write_bytes(data)
    for read in (
        lambda: stored_image(data, "x"),
        lambda: codecs.decode_image(data, 0.4),
        lambda: read_image(path),
        lambda: read_image(path, value_range=(-5, 900)),
        lambda: (is_deep(data), has_more_frames(data), orientation_of(open_image(data, "x"))),
    ):
        attempt(read)
    open_image(data, "x")


def read_as_mask(data: bytes, folder: Path) -> None:
    """Reads a file in every way in which the program reads masks."""
    mask = open_image(data, "x")
    for mask_format in ("indices", "colours"):
        attempt(
            lambda mask_format=mask_format: training_ids(
                mask, TABLE, mask_format, "x", assumed=True, bits=bits_of(mask, data)
            )
        )
    format_of(mask)
    attempt(lambda: codecs.decode_label(data))
    read_indices(InMemory(data), "x")


def read_as_matrix(data: bytes, folder: Path) -> None:
    attempt(lambda: read_matrix(InMemory(data), "x", "GTcls", "Segmentation"))
    translate(read_matrix(InMemory(data), "x", "LabelMap"), {0: 0, 1: 1, 2: 255}, "x")


def read_as_archive(data: bytes, folder: Path) -> None:
    path = folder / "own.zip"
    path.write_bytes(data)
    validate(FORMATS["cityscapes"], path)
    source = Source(path)
    for name in source.names:
        source.read(name)


def read_as_exported(data: bytes, folder: Path) -> None:
    path = folder / "network.cpnet"
    path.write_bytes(data)
    mesh = sharding.make_mesh()
    windows = np.zeros((mesh.size, *exported_files.CROP, 3), np.uint8)
    logits = load_exported(path, mesh).logits(sharding.to_devices(mesh, windows))
    assert np.isfinite(logits).all()


def attempt(read) -> None:
    """Runs `read`, which may refuse."""
    with contextlib.suppress(UserError, ValueError):
        read()


TIFFS = (
    encoded(RGB, "TIFF"),
    encoded(RGB, "TIFF", compression="tiff_lzw"),
    cv2.imencode(".tiff", RGB.astype(np.uint16) * 9)[1].tobytes(),
    cv2.imencode(".tiff", RGB[..., 0].astype(np.float32))[1].tobytes(),
)
SIXTEEN = cv2.imencode(".png", RGB.astype(np.uint16) * 9)[1].tobytes()
# kind -> (how to read it, whole files[, how to damage them])
KINDS = {
    "JPEG images": (read_as_image, (encoded(RGB, "JPEG"), encoded(RGB, "JPEG", progressive=True))),
    "PNG images": (read_as_image, (encoded(RGB, "PNG"), encoded(paletted(), "PNG"), SIXTEEN)),
    "WebP images": (read_as_image, (encoded(RGB, "WEBP"), encoded(RGB, "WEBP", lossless=True))),
    "BMP images": (read_as_image, (encoded(RGB, "BMP"), encoded(paletted(), "BMP"))),
    "TIFF images": (read_as_image, TIFFS),
    "GIF images": (read_as_image, (encoded(RGB, "GIF"),)),
    "PNG masks": (read_as_mask, (encoded(INDICES, "PNG"), encoded(paletted(), "PNG"), png_files.grey_png(INDICES, 2))),
    "TIFF masks": (read_as_mask, (encoded(INDICES, "TIFF"), encoded(paletted(), "TIFF", compression="tiff_lzw"))),
    "GIF masks": (read_as_mask, (encoded(paletted(), "GIF"),)),
    "BMP masks": (read_as_mask, (encoded(paletted(), "BMP"), encoded(INDICES, "BMP"))),
    "mat files": (
        read_as_matrix,
        (matlab(LabelMap=INDICES.astype(np.uint16)), matlab(LabelMap=INDICES, GTcls={"Segmentation": INDICES})),
    ),
    "zip archives": (read_as_archive, (packed(zipfile.ZIP_STORED), packed(zipfile.ZIP_DEFLATED))),
    "exported networks": (read_as_exported, (exported_files.whole(),), exported_files.mutated),
    **text_files.KINDS,
}


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes, removes or repeats a few bytes; half of the changes are near the start, where headers are."""
    content = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        span = len(content) if rng.random() < 0.5 else min(len(content), 200)
        place, length = int(rng.integers(0, span)), int(rng.integers(1, 9))
        match rng.integers(0, 6):
            case 0:
                content[place] ^= 1 << int(rng.integers(0, 8))
            case 1:
                content[place : place + length] = rng.bytes(length)
            case 2:
                content[place : place + length] = bytes([int(rng.choice([0, 1, 127, 128, 255]))]) * length
            case 3:
                del content[place : place + length]
            case 4:
                content[place:place] = content[place : place + length]
            case 5 if rng.random() < 0.3:
                del content[max(place, 1) :]
        if not content:
            break
    changed = bytes(content)
    right = changed.startswith(png_files.START) and rng.random() < 0.7
    return png_files.with_right_checksums(changed) if right else changed


def try_kind(kind: str, count: int, seed: int) -> None:
    read, whole, *other = KINDS[kind]
    mutate = other[0] if other else mutated
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            data = mutate(whole[rng.integers(0, len(whole))], rng)
            start = time.monotonic()
            try:
                read(data, Path(folder))
                outcomes["read"] += 1
            except (UserError, ValueError):
                outcomes["refused"] += 1
            except BaseException:
                Path(f"{kind} {index}").write_bytes(data)
                raise
            assert time.monotonic() - start < SLOWEST, f"{kind} {index} took longer than {SLOWEST} s"
    print(json.dumps({"kind": kind, **outcomes}), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for kind in sys.argv[3:]:
        try_kind(kind, int(sys.argv[1]), int(sys.argv[2]))
