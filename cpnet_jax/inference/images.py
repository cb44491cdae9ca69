"""Reads image files as 8-bit RGB.

Up to rounding, the values are those that training reads (`data.codecs`):

- 16-bit values are divided by 256, whatever range they use.
- Alpha is dropped; transparent pixels become visible.
- CMYK is converted without colour profiles.
- Of several frames or pages, the first is read.

Unlike training, it follows the camera's orientation, so that a prediction matches what an image viewer shows.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from cpnet_jax.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

# Restricted, because some of Pillow's other readers start external programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# EXIF orientation -> the operation that turns the stored picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, *, upright: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a JPEG, PNG, WebP, BMP, TIFF or GIF file as RGB.

    Args:
      upright: whether to apply the EXIF orientation; otherwise the pixels are returned as stored.

    Raises:
      UserError: if the file is not an image, is damaged or truncated, has values of unknown range, or exceeds Pillow's
        limit against decompression bombs (179 million pixels).
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            # Read after load(), because Pillow turns TIFFs itself and then removes the tag.
            turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            rgb = _as_rgb(image)
            return np.asarray(rgb.transpose(turn) if turn is not None and upright else rgb)
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        raise UserError(f"{path} cannot be read: {_reason(path, error)}") from error


def read_ahead(read: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """read(item) in order, by threads that are at most that many results ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise _UnknownRange("its pixels are 32-bit values of unknown range: save it with 8 or 16 bits")
    if image.mode == "RGBa":  # colours premultiplied by alpha
        image = image.convert("RGBA")
    return image.convert("RGB")


class _UnknownRange(Exception):
    pass


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, _UnknownRange):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"it has more than {most} million pixels: split it into smaller images"
    if isinstance(error, OSError) and error.strerror:  # from the operating system: permissions, missing file
        return f"{error.strerror.lower()}"
    if os.path.getsize(path) == 0:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is damaged, or not a JPEG, PNG, WebP, BMP, TIFF or GIF"
    return f"it is damaged or truncated ({' '.join(str(error).split()) or type(error).__name__})"
