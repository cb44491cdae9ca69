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
      begins, ends: whether it is the first or last window of its pass over the tile. The logits of a pass can be
        averaged before they become probabilities.
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
    begins: bool
    ends: bool


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
    """Windows pass by pass, row by row; a mirrored window follows its original if they are of one pass."""
    passes = list(_passes(tile, model.crop_size, protocol))
    image, scaled, scaled_as = tile.image.example["image"], None, None
    for number, positions in enumerate(passes):
        for index, position in enumerate(positions):
            if scaled is None or position.scale != scaled_as:
                scaled, scaled_as = _scaled(image, position.size, model), position.scale
            begins, ends = index == 0, index == len(positions) - 1
            yield Window(
                pixels=_crop(scaled, position, model.crop_size),
                tile=tile,
                scale=position.scale,
                corner=(position.top, position.left),
                rows=position.rows,
                columns=position.columns,
                flipped=position.flipped,
                first=begins and number == 0,
                last=ends and number == len(passes) - 1,
                begins=begins,
                ends=ends,
            )


class _Position(NamedTuple):
    """A window's scale index, the image's size at that scale, and the window's place there and in the tile."""

    scale: int
    size: tuple[int, int]
    top: int
    left: int
    rows: Reach
    columns: Reach
    flipped: bool


def _passes(tile: Tile, crop_size: tuple[int, int], protocol: Protocol) -> Iterator[list[_Position]]:
    """Yields the windows of each pass: those of one scale, and for averaged logits only the mirrored ones or the rest.

    Averaged logits are those of the mirrored image, cut into windows from its own left edge.
    """
    flips = (False, True) if protocol.flip else (False,)
    of_mirrored_image = protocol.overlap == "average_logits"
    for scale in range(len(protocol.scales)):
        for flips_of_pass in [(flipped,) for flipped in flips] if of_mirrored_image else [flips]:
            mirrored = of_mirrored_image and flips_of_pass[0]
            places = _places(tile, scale, crop_size, protocol, mirrored)
            yield [place._replace(flipped=flipped) for place in places for flipped in flips_of_pass]


def _places(
    tile: Tile, scale: int, crop_size: tuple[int, int], protocol: Protocol, mirrored: bool
) -> Iterator[_Position]:
    """Yields the places of a scale's windows that reach the tile, row by row."""
    height, width = tile.image.example["image"].shape[:2]
    factor, average = protocol.scales[scale], protocol.overlap != "sum"
    sides = (
        Side(height, factor, crop_size[0], average=average),
        Side(width, factor, crop_size[1], average=average, mirrored=mirrored),
    )
    rows, columns = (
        [(offset, reached) for offset in side.offsets if (reached := side.reach(offset, *span))]
        for side, span in zip(sides, (tile.rows, tile.columns), strict=True)
    )
    scaled = (sides[0].scaled, sides[1].scaled)
    for (top, row_reach), (left, column_reach) in itertools.product(rows, columns):
        yield _Position(scale, scaled, top, left, row_reach, column_reach, False)


def _crop(
    scaled: UInt8[np.ndarray, "rows columns 3"], position: _Position, crop_size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    (height, width), (top, left) = crop_size, (position.top, position.left)
    pixels = scaled[top : top + height, left : left + width]
    return pixels[:, ::-1] if position.flipped else pixels


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
