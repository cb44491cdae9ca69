"""Reads image files as 8-bit RGB.

Up to rounding, the values are those that training reads (`data.image_files`, `data.codecs`):

- More than 8 bits are scaled by the range of the training images, see `data.value_range`.
- Alpha is dropped; transparent pixels become visible.
- CMYK is converted without colour profiles.
- Of several frames or pages, the first is read.

Unlike training, it follows the camera's orientation, so that a prediction matches what an image viewer shows.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from cpnet_jax.data.image_files import TooManyPixels, open_image, orientation_of, pixel_values, turn_upright
from cpnet_jax.data.value_range import ValueRange, to_8_bits
from cpnet_jax.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def read_image(
    path: Path, *, upright: bool = True, value_range: ValueRange | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a JPEG, PNG, WebP, BMP, TIFF or GIF file as RGB.

    Args:
      upright: whether to apply the EXIF orientation; otherwise the pixels are returned as stored.
      value_range: range of values of more than 8 bits; None: 16 bits are divided by 256.

    Raises:
      UserError: if the file is not an image, is damaged or truncated, has values of unknown range, or exceeds Pillow's
        limit against decompression bombs (179 million pixels).
    """
    try:
        data = path.read_bytes()
        image = open_image(data)
        pixels = to_8_bits(pixel_values(image, data), value_range)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except TooManyPixels as error:
        raise UserError(f"{path} cannot be read: {error}: cut it into smaller images") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return turn_upright(pixels, orientation_of(image)) if upright else pixels


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
