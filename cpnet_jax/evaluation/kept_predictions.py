"""Keeps the predictions that pictures show, so that no image is predicted a second time."""

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8


class Packed(NamedTuple):
    """The predicted classes of an image, compressed: large regions of one class take next to no memory."""

    size: tuple[int, int]
    data: bytes

    @classmethod
    def of(cls, classes: UInt8[np.ndarray, "h w"]) -> "Packed":
        height, width = classes.shape
        return cls((height, width), zlib.compress(classes.tobytes(), level=1))

    def unpack(self) -> UInt8[np.ndarray, "h w"]:
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.size)


class KeptPredictions:
    """The predictions of the first images of a split, and of the worst and the best ones so far.

    At most 3 * count predictions are kept, however many images are added.

    Args:
      count: number of images that pictures show: the first ones of the split, and as many that are worst or best.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._packed: dict[int, Packed] = {}
        self._ranks: list[tuple[float, float, int]] = []  # (mean IoU, pixel accuracy, place) of rated images

    def add(self, place: int, mean_iou: float, pixel_accuracy: float, classes: UInt8[np.ndarray, "h w"]) -> None:
        """Keeps the classes of the image at a place of the split if pictures may show them.

        Args:
          mean_iou, pixel_accuracy: figures of the image by which `Evaluation` ranks; NaN if no pixel is labelled.
        """
        if not math.isnan(mean_iou):
            self._ranks = self._extremes([*self._ranks, (mean_iou, pixel_accuracy, place)])
        extreme = {place for *_, place in self._ranks}
        if place < self._count or place in extreme:
            self._packed[place] = Packed.of(classes)
        for known in [known for known in self._packed if known >= self._count and known not in extreme]:
            del self._packed[known]

    def take(self, places: Iterable[int]) -> dict[int, Packed]:
        """The kept predictions at these places of the split."""
        return {place: self._packed[place] for place in places if place in self._packed}

    def _extremes(self, ranks: list[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
        """The `count` worst and the `count` best: of several that are equal, those that come first in the split."""
        worst = sorted(ranks)[: self._count]
        best = sorted(ranks, key=lambda rank: (-rank[0], -rank[1], rank[2]))[: self._count]
        return list({*worst, *best})


def merged(parts: Iterable[Mapping[int, Packed]]) -> dict[int, Packed]:
    """The predictions of all processes, by place."""
    return {place: packed for part in parts for place, packed in part.items()}
