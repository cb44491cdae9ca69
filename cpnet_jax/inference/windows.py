"""Whole-image prediction with a network of fixed input size: padded, overlapping windows (as the authors evaluate).

The prior has one channel a position, so the network sees windows of its crop size. Images smaller than the crop are
padded; larger ones are covered by windows with stride 2/3 of the crop, the last clamped to the edge. Softmax scores are
summed where windows overlap.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

Window = tuple[int, int]
# uint8 windows (b, h, w, 3) -> class probabilities (b, h, w, k)
Probabilities = Callable[[UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w k"]]


def window_offsets(size: int, crop: int) -> list[int]:
    """Start of each window along one side: every 2/3 crop, the last one flush with the edge; [0] if size <= crop."""
    stride = max(crop * 2 // 3, 1)
    count = max(-(-(size - crop) // stride), 0) + 1
    return [max(min(i * stride, size - crop), 0) for i in range(count)]


def predict(
    probabilities: Probabilities,
    examples: Iterable[dict[str, Any]],
    *,
    crop_size: tuple[int, int],
    batch_size: int,
    fill: Iterable[float],
) -> Iterator[tuple[dict[str, Any], UInt8[np.ndarray, "h w"]]]:
    """Yields (example, predicted class of every pixel of its "image"), in order.

    Windows of successive images share batches, so that the network always runs on full ones; only the very last batch
    is padded, and what is computed for the padding is dropped.

    Args:
      probabilities: the network on a batch of windows of `crop_size`, always `batch_size` of them.
      examples: each with "image", uint8 (h, w, 3) of any size.
      crop_size: (height, width) of a window.
      batch_size: windows a batch.
      fill: RGB of the padding of images smaller than the crop.
    """
    fill = np.round(list(fill)).astype(np.uint8)
    waiting: list[_Canvas] = []
    queue: list[tuple[_Canvas, Window]] = []
    for example in examples:
        canvas = _Canvas(example, crop_size, fill)
        waiting.append(canvas)
        queue += [(canvas, window) for window in canvas.windows]
        while len(queue) >= batch_size:
            _run(probabilities, queue[:batch_size], batch_size)
            del queue[:batch_size]
        while waiting and waiting[0].complete:
            yield waiting.pop(0).result()
    if queue:
        _run(probabilities, queue, batch_size)
    for canvas in waiting:
        yield canvas.result()


def _run(probabilities: Probabilities, work: list[tuple["_Canvas", Window]], batch_size: int) -> None:
    windows = np.stack([canvas.read(window) for canvas, window in work])
    windows = np.pad(windows, ((0, batch_size - len(work)), (0, 0), (0, 0), (0, 0)))
    for (canvas, window), scores in zip(work, np.asarray(probabilities(windows)), strict=False):
        canvas.add(window, scores)


class _Canvas:
    """One image, padded to at least a window, and the sum of the scores of its windows so far."""

    def __init__(self, example: dict[str, Any], crop: tuple[int, int], fill: UInt8[np.ndarray, "3"]) -> None:
        image = example["image"]
        self.example = example
        self.crop = crop
        self.size = image.shape[:2]
        padded = [max(side, wanted) for side, wanted in zip(self.size, crop, strict=True)]
        self.image = np.empty((*padded, 3), np.uint8)
        self.image[:] = fill
        self.image[: self.size[0], : self.size[1]] = image
        rows, columns = (window_offsets(side, wanted) for side, wanted in zip(padded, crop, strict=True))
        self.windows = [(row, column) for row in rows for column in columns]
        self.missing = len(self.windows)
        self.scores: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        return self.missing == 0

    def read(self, window: Window) -> UInt8[np.ndarray, "h w 3"]:
        return self.image[self._slices(window)]

    def add(self, window: Window, scores: Float[np.ndarray, "h w k"]) -> None:
        if self.scores is None:
            self.scores = np.zeros((*self.image.shape[:2], scores.shape[-1]), np.float32)
        self.scores[self._slices(window)] += scores
        self.missing -= 1

    def result(self) -> tuple[dict[str, Any], UInt8[np.ndarray, "h w"]]:
        height, width = self.size
        return self.example, self.scores[:height, :width].argmax(axis=-1).astype(np.uint8)

    def _slices(self, window: Window) -> tuple[slice, slice]:
        return tuple(slice(start, start + size) for start, size in zip(window, self.crop, strict=True))
