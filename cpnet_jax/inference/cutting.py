"""From images to windows: tiles where an image is too large for a canvas, scales, padding, cropping, flip."""

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
from cpnet_jax.inference.windows import Side, Stretch

Example = dict[str, Any]
Span = tuple[int, int]


class Image:
    """An example and what has been found for it so far."""

    def __init__(self, example: Example, largest_side: int) -> None:
        self.example = example
        self._size = example["image"].shape[:2]
        self._spans = [_spans(side, largest_side) for side in self._size]
        self._missing = math.prod(map(len, self._spans))
        self.result: Shaped[np.ndarray, "h w ..."] | None = None

    def tiles(self) -> Iterator["Tile"]:
        # Not kept: tiles know their image, and a circle of references would keep both until Python looks for circles.
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

    image: Image
    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def store(self, found: Shaped[np.ndarray, "h w ..."]) -> None:
        """Takes what was found for it, off the top left corner of a canvas."""
        height, width = self.size
        self.image.store(self.rows, self.columns, found[:height, :width])


class Window(NamedTuple):
    """What the network sees, and where its scores belong.

    Attributes:
      pixels: of the crop size.
      tile: that it is for.
      scale: number of its scale.
      rows, columns: of the tile that it reaches.
      flipped: mirrored left to right.
      first, last: of its tile.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    tile: Tile
    scale: int
    rows: Stretch
    columns: Stretch
    flipped: bool
    first: bool
    last: bool


class Images:
    """Images in work, in their order; whoever cuts windows takes tiles from here.

    Args:
      largest_side: of a tile.
      most_waiting: no image is begun while so many wait, done or not, for one before them.

    Attributes:
      exhausted: there is nothing more to begin.
    """

    def __init__(self, examples: Iterable[Example], *, largest_side: int, most_waiting: int) -> None:
        self._waiting: deque[Image] = deque()
        self._most_waiting = most_waiting
        self._tiles = self._next_tiles(examples, largest_side)
        self.exhausted = False

    def _next_tiles(self, examples: Iterable[Example], largest_side: int) -> Iterator[Tile]:
        for example in examples:
            image = Image(example, largest_side)
            self._waiting.append(image)
            yield from image.tiles()

    def next_tile(self) -> Tile | None:
        """None where there is none, or none yet."""
        if self.exhausted or len(self._waiting) >= self._most_waiting:
            return None
        tile = next(self._tiles, None)
        self.exhausted = tile is None
        return tile

    def finished(self) -> Iterator[tuple[Example, Shaped[np.ndarray, "h w ..."]]]:
        """Lets go of the images, and their results, that are complete and have none before them that is not."""
        while self._waiting and self._waiting[0].complete:
            image = self._waiting.popleft()
            yield image.example, image.result


def cut(images: Images, model: TrainedModel, protocol: Protocol) -> Iterator[Window | None]:
    """All windows of one tile after the other, without end: None where there is no tile, or none yet."""
    while True:
        tile = images.next_tile()
        if tile is None:
            yield None
        else:
            yield from _windows(tile, model, protocol)


def _windows(tile: Tile, model: TrainedModel, protocol: Protocol) -> Iterator[Window]:
    """Scale by scale, row by row; of each the window itself, then mirrored."""
    places = list(_places(tile, model.crop_size, protocol))
    image, scaled_as = tile.image.example["image"], None
    for index, place in enumerate(places):
        if place.scale != scaled_as:
            scaled, scaled_as = _scaled(image, place.size, model), place.scale
        pixels = scaled[place.top : place.top + model.crop_size[0], place.left : place.left + model.crop_size[1]]
        begins, ends = index == 0, index == len(places) - 1
        window = Window(pixels, tile, place.scale, place.rows, place.columns, False, begins, ends)
        if protocol.flip:
            yield window._replace(last=False)
            yield window._replace(pixels=pixels[:, ::-1], flipped=True, first=False)
        else:
            yield window


class _Place(NamedTuple):
    """Of a window: number of its scale, size of the image at it, corner there, and what it reaches of the tile."""

    scale: int
    size: tuple[int, int]
    top: int
    left: int
    rows: Stretch
    columns: Stretch


def _places(tile: Tile, crop_size: tuple[int, int], protocol: Protocol) -> Iterator[_Place]:
    size = tile.image.example["image"].shape[:2]
    for number, scale in enumerate(protocol.scales):
        average = protocol.overlap == "average"
        sides = [Side(side, scale, crop, average=average) for side, crop in zip(size, crop_size, strict=True)]
        rows, columns = (
            [(offset, reached) for offset in side.offsets if (reached := side.stretch(offset, *span))]
            for side, span in zip(sides, (tile.rows, tile.columns), strict=True)
        )
        scaled = tuple(side.scaled for side in sides)
        for (top, row_stretch), (left, column_stretch) in itertools.product(rows, columns):
            yield _Place(number, scaled, top, left, row_stretch, column_stretch)


def _scaled(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], model: TrainedModel
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Resized, then padded at the bottom and right with the mean colour to at least the crop."""
    height, width = size
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    missing = [max(crop - side, 0) for crop, side in zip(model.crop_size, (height, width), strict=True)]
    if not any(missing):
        return image
    colour = np.round(model.mean).tolist()
    return cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=colour)


def _spans(side: int, largest: int) -> list[Span]:
    """As few and as equal parts of a side as none is larger than that."""
    count = -(-side // largest)
    edges = [side * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))
