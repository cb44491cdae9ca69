"""Any picture file -> 8-bit RGB as the network was trained on it, upright.

The values are those that training reads (`data.codecs`), give or take rounding: 16 bits are divided by 256 whatever
range they use, transparency is ignored (a pixel counts with its own colour), CMYK is converted without colour profiles,
and of several frames or pages the first is taken. Other than there, the camera's orientation is followed: there is no
label here that was made for the stored pixels, and people expect the prediction to fit what their viewer shows.
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

# No others are tried: some of Pillow's readers start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# Value of the EXIF orientation -> what turns the stored picture upright.
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
    """A JPEG, PNG, WebP, BMP, TIFF or GIF of any kind as RGB.

    Args:
      upright: as the camera was held; otherwise as stored, whatever its orientation says.

    Raises:
      UserError: naming the file, where it is no picture, damaged, cut short, too large (Pillow's limit against
        decompression bombs, 179 million pixels) or holds values without a known range.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            # Read after loading: Pillow turns TIFFs itself and then drops the tag.
            turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
            rgb = _as_rgb(image)
            return np.asarray(rgb.transpose(turn) if turn is not None and upright else rgb)
    except Exception as error:  # damaged files make Pillow raise nearly anything
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
        raise _UnknownRange("its pixels are 32-bit numbers, and nothing says which is white: save it with 8 or 16 bits")
    if image.mode == "RGBa":  # multiplied by their opacity
        image = image.convert("RGBA")
    return image.convert("RGB")


class _UnknownRange(Exception):
    pass


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, _UnknownRange):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} million pixels: cut it into parts"
    if isinstance(error, OSError) and error.strerror:  # the system's: permission, no such file
        return f"{error.strerror.lower()}"
    if os.path.getsize(path) == 0:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is damaged, or no JPEG, PNG, WebP, BMP, TIFF or GIF"
    return f"it is damaged or cut short ({' '.join(str(error).split()) or type(error).__name__})"
