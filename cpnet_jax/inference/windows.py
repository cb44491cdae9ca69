"""Geometry of sliding windows: where they lie, and which pixels their scores reach. Exact in integers.

A prior with one channel per position takes windows of the training crop only. Smaller images are padded at the
bottom and right. Larger ones are covered by windows with a stride of 2/3 of the crop, the last one flush with the edge,
as in the authors' evaluator.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

GRANULE = 32


def scaled_size(size: int, scale: float) -> int:
    """Length of an image side at a scale: rounded half up, at least 1."""
    return max(int(np.floor(size * scale + 0.5)), 1)


def coarse(side: int) -> int:
    """The smallest of GRANULE times 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is at least `side`, in pixels.

    Arrays of these sides have few different shapes, and each shape is compiled once.
    """
    granules = -(-side // GRANULE)
    power = 2 ** (granules - 1).bit_length()
    return GRANULE * (power * 3 // 4 if granules <= power * 3 // 4 else power)


def window_offsets(size: int, crop: int) -> list[int]:
    """Starts of the windows along one side: every 2/3 crop, the last one flush with the edge; [0] if size <= crop."""
    stride = max(crop * 2 // 3, 1)
    count = max(-(-(size - crop) // stride), 0) + 1
    return [max(min(i * stride, size - crop), 0) for i in range(count)]


class Taps(NamedTuple):
    """Linear interpolation along one side: output i is `x[lower[i]] * weight[0, i] + x[upper[i]] * weight[1, i]`."""

    lower: Int[np.ndarray, " out"]
    upper: Int[np.ndarray, " out"]
    weight: Float[np.ndarray, "2 out"]


def bilinear_taps(size: int, out: int) -> Taps:
    """Taps from `size` samples to `out`, as torch's align_corners=False: half-pixel centres, clamped edges."""
    # The source of output i is (i + 1/2) size / out - 1/2, kept as a fraction over 2 out.
    source = np.maximum((2 * np.arange(out, dtype=np.int64) + 1) * size - out, 0)
    lower, rest = np.divmod(source, 2 * out)
    upper = np.minimum(lower + 1, size - 1)
    fraction = rest / (2 * out)
    return Taps(lower, upper, np.stack([1 - fraction, fraction]))


class Reach(NamedTuple):
    """The output pixels that a window contributes to, along one side.

    Attributes:
      start: the first output pixel; the taps are those of the pixels from there on.
      taps: interpolation from the window; samples outside the window have weight 0.
    """

    start: int
    taps: Taps


class Side:
    """One side of an image at one scale: its windows, and how their scores map to the image's pixels.

    Args:
      size: length of the side, in pixels.
      scale: see `scaled_size`.
      crop: length of the windows.
      average: whether overlapping windows are averaged; otherwise they are added.
      mirrored: whether the windows lie as those of the mirrored side.
    """

    def __init__(self, size: int, scale: float, crop: int, *, average: bool = False, mirrored: bool = False) -> None:
        self.scaled = scaled_size(size, scale)
        self.offsets = window_offsets(self.scaled, crop)
        if mirrored:
            self.offsets = [self.offsets[-1] - offset for offset in self.offsets]
        self._crop = crop
        self._taps = bilinear_taps(self.scaled, size)
        covering = np.zeros(max(self.scaled, crop))
        for offset in self.offsets:
            covering[offset : offset + crop] += 1
        self._share = 1 / covering if average else np.ones_like(covering)

    def reach(self, offset: int, begin: int, end: int) -> Reach | None:
        """The pixels among begin .. end - 1 that the window at `offset` contributes to; None if there are none."""
        lower, upper, weight = (part[..., begin:end] for part in self._taps)
        inside = [(offset <= taps) & (taps < offset + self._crop) for taps in (lower, upper)]
        reached = np.flatnonzero(inside[0] | inside[1])
        if not reached.size:
            return None
        part = slice(reached[0], reached[-1] + 1)
        weight = weight * np.stack(inside) * np.stack([self._share[lower], self._share[upper]])
        lower, upper = (np.clip(taps - offset, 0, self._crop - 1) for taps in (lower, upper))
        return Reach(int(reached[0]), Taps(lower[part], upper[part], weight[:, part]))
