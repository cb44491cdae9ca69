"""Encoded pictures -> pixels, as they are stored: a camera's orientation flag never turns them, since the label was
made for the stored pixels."""

from io import BytesIO
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

# Below that side, rounding lets libjpeg-turbo choose another reduction than the one meant.
SMALLEST_REDUCED = 16


class Decoded(NamedTuple):
    """Attributes:
    pixels: RGB, ceil(h / reduction) x ceil(w / reduction).
    reduction: each side was divided by it while decoding.
    size: (h, w) as stored.
    """

    pixels: UInt8[np.ndarray, "rows columns 3"]
    reduction: int
    size: tuple[int, int]


def decode_image(data: bytes, scale: float = 1.0) -> Decoded:
    """A JPEG, PNG or what else OpenCV reads.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (the inverse DCT of its low frequencies only) where that is no
    smaller than `scale` of it: less work, and the same picture as decoding and then averaging, but for rounding and
    a better filter against aliasing.

    Raises:
      ValueError: where the data is damaged or no picture.
    """
    if data[:2] == b"\xff\xd8":
        return _decode_jpeg(data, scale)
    pixels = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return Decoded(pixels, 1, pixels.shape[:2])


def decode_label(data: bytes) -> UInt8[np.ndarray, "h w"]:
    """A one-channel PNG; whatever else it is comes back as it is, for the caller to refuse.

    Raises:
      ValueError: where the data is damaged or no picture.
    """
    return _decode(data, cv2.IMREAD_UNCHANGED)


def _decode(data: bytes, flags: int) -> UInt8[np.ndarray, "..."]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None  # OpenCV raises on no bytes
    if pixels is None:
        raise ValueError("damaged, or no picture")
    return pixels


def _decode_jpeg(data: bytes, scale: float) -> Decoded:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        reduction = 1
        while reduction < 8 and 2 * reduction * scale <= 1 and min(height, width) >= SMALLEST_REDUCED:
            reduction *= 2
        # libjpeg-turbo takes its smallest size that is no smaller than these.
        smallest = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
        pixels = simplejpeg.decode_jpeg(data, **smallest if reduction > 1 else {})
        return Decoded(pixels, reduction, (height, width))
    except ValueError:
        return _decode_imperfect_jpeg(data)


def _decode_imperfect_jpeg(data: bytes) -> Decoded:
    """Stray bytes that do no harm, at which simplejpeg stops, are in files of well-known datasets. Pillow reads over
    them, and still refuses a file that is cut short."""
    try:
        pixels = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    return Decoded(pixels, 1, pixels.shape[:2])
