"""Where the windows of an image lie, and where their scores go: geometry in numpy, exact in integers.

The prior has one channel a position, so the network sees windows of its crop size. Images smaller than the crop are
padded at the bottom and right; larger ones are covered by windows with a stride of 2/3 of the crop, the last flush
with the edge (the authors' evaluator).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


def scaled_size(size: int, scale: float) -> int:
    """A side of the image at that scale: rounded half up, at least 1."""
    return max(int(np.floor(size * scale + 0.5)), 1)


def window_offsets(size: int, crop: int) -> list[int]:
    """Start of each window along one side: every 2/3 crop, the last one flush with the edge; [0] if size <= crop."""
    stride = max(crop * 2 // 3, 1)
    count = max(-(-(size - crop) // stride), 0) + 1
    return [max(min(i * stride, size - crop), 0) for i in range(count)]


class Taps(NamedTuple):
    """Linear interpolation along one side: output i is `x[lower[i]] * weight[0, i] + x[upper[i]] * weight[1, i]`."""

    lower: Int[np.ndarray, " out"]
    upper: Int[np.ndarray, " out"]
    weight: Float[np.ndarray, "2 out"]


def bilinear_taps(size: int, out: int) -> Taps:
    """From `size` samples to `out`: half-pixel centres, edges clamped, no antialiasing (torch: align_corners=False)."""
    # The source of output i is (i + 1/2) size / out - 1/2, kept as a fraction over 2 out.
    source = np.maximum((2 * np.arange(out, dtype=np.int64) + 1) * size - out, 0)
    lower, rest = np.divmod(source, 2 * out)
    upper = np.minimum(lower + 1, size - 1)
    fraction = rest / (2 * out)
    return Taps(lower, upper, np.stack([1 - fraction, fraction]))


class Stretch(NamedTuple):
    """What one window gives to one side of the output.

    Attributes:
      start: first place of the output that it reaches; the taps are those of the places from there on.
      taps: into the window; weights of samples that are not the window's are 0.
    """

    start: int
    taps: Taps


class Side:
    """One side of an image at one scale: its windows and how their scores reach the image's own pixels.

    Args:
      size: of the image.
      scale: see `scaled_size`.
      crop: of the windows.
      average: whether windows are averaged where they overlap; otherwise they are added.
    """

    def __init__(self, size: int, scale: float, crop: int, *, average: bool = False) -> None:
        self.scaled = scaled_size(size, scale)
        self.offsets = window_offsets(self.scaled, crop)
        self._crop = crop
        self._taps = bilinear_taps(self.scaled, size)
        covering = np.zeros(max(self.scaled, crop))
        for offset in self.offsets:
            covering[offset : offset + crop] += 1
        self._share = 1 / covering if average else np.ones_like(covering)

    def stretch(self, offset: int, begin: int, end: int) -> Stretch | None:
        """What the window at `offset` gives to the places begin .. end - 1 of the image; None where that is nothing."""
        lower, upper, weight = (part[..., begin:end] for part in self._taps)
        inside = [(offset <= taps) & (taps < offset + self._crop) for taps in (lower, upper)]
        reached = np.flatnonzero(inside[0] | inside[1])
        if not reached.size:
            return None
        part = slice(reached[0], reached[-1] + 1)
        weight = weight * np.stack(inside) * np.stack([self._share[lower], self._share[upper]])
        lower, upper = (np.clip(taps - offset, 0, self._crop - 1) for taps in (lower, upper))
        return Stretch(int(reached[0]), Taps(lower[part], upper[part], weight[:, part]))
