"""Decodes images and labels to pixels as they are stored.

EXIF orientation is never applied, since labels are made for the stored pixels.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt, UInt8

from cpnet_jax.data import image_files

# Smallest side, in pixels, of a JPEG decoded at a reduced size. Below it, rounding can make libjpeg-turbo choose
# another reduction than the requested one.
SMALLEST_REDUCED = 16


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
      pixels: RGB, of ceil(h / reduction) x ceil(w / reduction).
      reduction: what each side was divided by while decoding: 1, 2, 4 or 8.
      size: stored (h, w).
    """

    pixels: UInt8[np.ndarray, "rows columns 3"]
    reduction: int
    size: tuple[int, int]


def decode_image(data: bytes, scale: float = 1.0) -> Decoded:
    """Decodes a JPEG, PNG or any other format OpenCV reads.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is at least `scale` of it. libjpeg-turbo then inverts the
    DCT of the low frequencies only, which is faster and close to decoding in full and averaging.

    Raises:
      ValueError: if the data is damaged or not an image.
    """
    if data.startswith(image_files.JPEG_START):
        return _decode_jpeg(data, scale)
    pixels = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return Decoded(pixels, 1, pixels.shape[:2])


def decode_label(data: bytes) -> UInt[np.ndarray, "h w ..."]:
    """Decodes a one-channel PNG; an image with several channels is returned unchanged, for the caller to reject.

    Raises:
      ValueError: if the data is damaged or not an image.
    """
    return _decode(data, cv2.IMREAD_UNCHANGED)


def _decode(data: bytes, flags: int) -> UInt[np.ndarray, "..."]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # also if there are no data
        pixels = None
    if pixels is None:
        raise ValueError("damaged or not an image")
    return pixels


def _decode_jpeg(data: bytes, scale: float) -> Decoded:
    try:
        height, width = map(int, simplejpeg.decode_jpeg_header(data)[:2])
        reduction = 1
        while reduction < 8 and 2 * reduction * scale <= 1 and min(height, width) >= SMALLEST_REDUCED:
            reduction *= 2
        # libjpeg-turbo chooses the smallest size that is at least this large.
        smallest: Any = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
        pixels = simplejpeg.decode_jpeg(data, **smallest if reduction > 1 else {})
        return Decoded(pixels, reduction, (height, width))
    except ValueError:
        return _decode_imperfect_jpeg(data)


def _decode_imperfect_jpeg(data: bytes) -> Decoded:
    """Decodes a JPEG with stray bytes, as some files of well-known datasets have.

    simplejpeg rejects these files. Pillow reads them, and still rejects truncated ones.
    """
    pixels = image_files.pixel_values(image_files.open_image(data), data)
    return Decoded(pixels, 1, pixels.shape[:2])
