"""Looks up the training id of each pixel."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int16, Integer

from cpnet_jax.data.large_images import bands

UNKNOWN = -1


def look_up(raw: Integer[np.ndarray, "h w"], labels: dict[int, int]) -> Int16[np.ndarray, "h w"]:
    """Maps raw values to training ids; UNKNOWN if a value is not in `labels`."""
    known = np.array(sorted(labels))
    ids = np.array([labels[number] for number in known.tolist()], np.int16)

    def ids_of(values: Integer[np.ndarray, "..."]) -> Int16[np.ndarray, "..."]:
        place = np.searchsorted(known, values).clip(max=len(known) - 1)
        return np.where(known[place] == values, ids[place], np.int16(UNKNOWN))

    if raw.dtype == np.uint8:
        return cv2.LUT(np.ascontiguousarray(raw), ids_of(np.arange(256)))
    return in_bands(raw.shape, lambda rows: ids_of(raw[rows]))


def in_bands(size: tuple[int, ...], ids_of: Callable[[slice], Any]) -> Int16[np.ndarray, "h w"]:
    """Computes training ids a few rows at a time, since NumPy looks values up with 8 bytes a pixel or more.

    Args:
      size: (height, width).
      ids_of: rows -> their training ids.
    """
    found = np.empty(size, np.int16)
    for rows in bands(*size):
        found[rows] = ids_of(rows)
    return found
