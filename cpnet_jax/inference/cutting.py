"""Cuts images into windows: tiles for images larger than a canvas, then scaling, padding, cropping and flip."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.windows import Reach, Side

Example = dict[str, Any]
Span = tuple[int, int]


class PendingImage:
    """An example and the part of its result that is complete."""

    def __init__(self, example: Example, largest_side: int) -> None:
        self.example = example
        self._size = example["image"].shape[:2]
        self._spans = [_spans(side, largest_side) for side in self._size]
        self._missing = math.prod(map(len, self._spans))
        self.result: Any = None  # Shaped[np.ndarray, "h w ..."] from the first part on

    def tiles(self) -> Iterator["Tile"]:
        # Not stored: tiles refer to their image, and a reference cycle would delay freeing both.
        rows, columns = self._spans
        return (Tile(self, row, column) for row in rows for column in columns)

    @property
    def complete(self) -> bool:
        return not self._missing

    def store(self, rows: Span, columns: Span, found: Shaped[np.ndarray, "h w ..."]) -> None:
        if self.result is None:
            self.result = np.empty((*self._size, *found.shape[2:]), found.dtype)
        self.result[slice(*rows), slice(*columns)] = found
        self._missing -= 1


class Tile(NamedTuple):
    """A part of an image that fits on a canvas."""

    image: PendingImage
    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def store(self, found: Shaped[np.ndarray, "h w ..."]) -> None:
        """Stores its result, the top left corner of a canvas."""
        height, width = self.size
        self.image.store(self.rows, self.columns, found[:height, :width])


class Window(NamedTuple):
    """A crop that the network takes, and where its scores belong.

    Attributes:
      pixels: RGB pixels of the crop size.
      tile: the tile that its scores are added to.
      scale: index of its scale.
      corner: (row, column) of its first pixel in the image at that scale.
      rows, columns: rows and columns of the tile that it reaches.
      flipped: whether it is mirrored left to right.
      first, last: whether it is the first or last window of its tile.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    tile: Tile
    scale: int
    corner: tuple[int, int]
    rows: Reach
    columns: Reach
    flipped: bool
    first: bool
    last: bool


class ImageQueue:
    """The images being predicted, in their order; hands out their tiles.

    Args:
      largest_side: the longest side of a tile.
      most_waiting: no new image is started while this many are unfinished or wait for an earlier one.

    Attributes:
      exhausted: whether all tiles have been handed out.
    """

    def __init__(self, examples: Iterable[Example], *, largest_side: int, most_waiting: int) -> None:
        self._waiting: deque[PendingImage] = deque()
        self._most_waiting = most_waiting
        self._tiles = self._next_tiles(examples, largest_side)
        self.exhausted = False

    def _next_tiles(self, examples: Iterable[Example], largest_side: int) -> Iterator[Tile]:
        for example in examples:
            image = PendingImage(example, largest_side)
            self._waiting.append(image)
            yield from image.tiles()

    def next_tile(self) -> Tile | None:
        """The next tile, or None if all are handed out or too many images wait."""
        if self.exhausted or len(self._waiting) >= self._most_waiting:
            return None
        tile = next(self._tiles, None)
        self.exhausted = tile is None
        return tile

    def finished(self) -> Iterator[tuple[Example, Shaped[np.ndarray, "h w ..."]]]:
        """Yields and forgets the examples whose result, and that of all earlier ones, is complete."""
        while self._waiting and self._waiting[0].complete:
            image = self._waiting.popleft()
            yield image.example, image.result


def cut(images: ImageQueue, model: TrainedModel, protocol: Protocol) -> Iterator[Window | None]:
    """Yields all windows, tile after tile; yields None, without end, whenever no tile is available."""
    while True:
        tile = images.next_tile()
        if tile is None:
            yield None
        else:
            yield from _windows(tile, model, protocol)


def _windows(tile: Tile, model: TrainedModel, protocol: Protocol) -> Iterator[Window]:
    """Windows scale by scale, row by row; with flip, each window is followed by its mirror image."""
    positions = list(_positions(tile, model.crop_size, protocol))
    image, scaled, scaled_as = tile.image.example["image"], None, None
    for index, position in enumerate(positions):
        if scaled is None or position.scale != scaled_as:
            scaled, scaled_as = _scaled(image, position.size, model), position.scale
        (top, left), (height, width) = (position.top, position.left), model.crop_size
        pixels = scaled[top : top + height, left : left + width]
        first, last = index == 0, index == len(positions) - 1
        corner, rows, columns = (top, left), position.rows, position.columns
        window = Window(pixels, tile, position.scale, corner, rows, columns, False, first, last)
        if protocol.flip:
            yield window._replace(last=False)
            yield window._replace(pixels=pixels[:, ::-1], flipped=True, first=False)
        else:
            yield window


class _Position(NamedTuple):
    """A window's scale index, the image's size at that scale, the window's corner there, and its reach in the tile."""

    scale: int
    size: tuple[int, int]
    top: int
    left: int
    rows: Reach
    columns: Reach


def _positions(tile: Tile, crop_size: tuple[int, int], protocol: Protocol) -> Iterator[_Position]:
    size = tile.image.example["image"].shape[:2]
    for number, scale in enumerate(protocol.scales):
        average = protocol.overlap == "average"
        sides = [Side(side, scale, crop, average=average) for side, crop in zip(size, crop_size, strict=True)]
        rows, columns = (
            [(offset, reached) for offset in side.offsets if (reached := side.reach(offset, *span))]
            for side, span in zip(sides, (tile.rows, tile.columns), strict=True)
        )
        scaled = (sides[0].scaled, sides[1].scaled)
        for (top, row_reach), (left, column_reach) in itertools.product(rows, columns):
            yield _Position(number, scaled, top, left, row_reach, column_reach)


def _scaled(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], model: TrainedModel
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The image resized, then padded at the bottom and right with the mean colour to at least the crop size."""
    height, width = size
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    missing = [max(crop - side, 0) for crop, side in zip(model.crop_size, (height, width), strict=True)]
    if not any(missing):
        return image
    colour = np.round(model.mean).tolist()
    return cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=colour)


def _spans(side: int, largest: int) -> list[Span]:
    """Splits a side into the fewest, nearly equal parts of at most `largest`."""
    count = -(-side // largest)
    edges = [side * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))
