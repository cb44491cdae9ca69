"""Range of the values of images with more than 8 bits a channel, and their scaling to 8 bits.

Cameras and scanners store 10, 12 or 14 bits in files of 16, so that a file's type does not tell the range of its
values. It is one range for a whole dataset: a range for each image would make dark images bright.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from cpnet_jax.data.large_images import bands

# (value that becomes 0, value that becomes 255)
ValueRange = tuple[float, float]

SIXTEEN_BITS: ValueRange = (0, 2**16 - 1)
BITS = (8, 10, 12, 14, 16)


def value_range_from(saved: Mapping[str, Any]) -> ValueRange | None:
    """Reads the entry "value_range" of JSON metadata; files of older versions have none."""
    found = saved.get("value_range")
    return (found[0], found[1]) if found else None


class Extremes(NamedTuple):
    """The lowest and highest finite value of an image, and whether its values are floating-point numbers."""

    lowest: float
    highest: float
    floating: bool

    def __str__(self) -> str:
        return f"{self.lowest:.6g} to {self.highest:.6g}"


def extremes_of(values: Shaped[np.ndarray, "h w ..."]) -> Extremes:
    """Returns an image's extremes; (0, 0) if no value is finite."""
    floating = values.dtype.kind == "f"
    finite = values[np.isfinite(values)] if floating else values
    return Extremes(float(finite.min()), float(finite.max()), floating) if finite.size else Extremes(0, 0, floating)


def find_value_range(images: Mapping[str, Extremes]) -> ValueRange:
    """Finds the range of a dataset: the smallest usual number of bits that holds all values; (0, 1) for fractions.

    Args:
      images: name -> extremes, of all images with more than 8 bits; not empty.

    Raises:
      ValueError: if the values show no range; the message names an image.
    """
    low_name, low = min(images.items(), key=lambda item: item[1].lowest)
    high_name, high = max(images.items(), key=lambda item: item[1].highest)
    if low.lowest < 0:
        raise ValueError(f"{low_name} holds negative values ({low})")
    fractions = [name for name, found in images.items() if found.floating and 0 < found.highest <= 1]
    if high.highest <= 1 and high.floating:
        return 0, 1
    if fractions:
        raise ValueError(f"{fractions[0]} holds fractions up to 1, but {high_name} holds {high}")
    for bits in BITS:
        if high.highest < 2**bits:
            return 0, 2**bits - 1
    raise ValueError(f"{high_name} holds values above 65535 ({high})")


def to_8_bits(
    values: Shaped[np.ndarray, "h w ..."], value_range: ValueRange | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Scales values of more than 8 bits to 0 .. 255, cut off below; grey becomes RGB. 8-bit values stay as they are.

    A range of b bits, (0, 2^b - 1), divides by 2^(b - 8).

    Args:
      values: as returned by `image_files.pixel_values`.
      value_range: None: divides 16-bit values by 256.

    Raises:
      ValueError: if the values are not 16-bit integers and value_range is None.
    """
    if values.dtype == np.uint16:
        table = _scale(np.arange(2**16), value_range or SIXTEEN_BITS)
        values = _in_bands(values, lambda rows: table[rows])
    elif values.dtype != np.uint8:
        if value_range is None:
            raise ValueError("its pixels are signed or 32-bit values of unknown range: save it with 8 or 16 bits")
        values = _in_bands(values, partial(_scale, value_range=value_range))
    return np.repeat(values[..., None], 3, axis=-1) if values.ndim == 2 else values


def _in_bands(
    values: Shaped[np.ndarray, "h w ..."], scale: Callable[[np.ndarray], np.ndarray]
) -> UInt8[np.ndarray, "h w ..."]:
    scaled = np.empty(values.shape, np.uint8)
    for rows in bands(*values.shape[:2]):
        scaled[rows] = scale(values[rows])
    return scaled


def _scale(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    low, high = value_range
    inside = np.nan_to_num(values.astype(np.float64).clip(low, high), nan=low)
    return ((inside - low) * 256 / (high - low)).clip(max=255).astype(np.uint8)
