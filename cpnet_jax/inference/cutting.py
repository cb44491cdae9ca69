"""Cuts images into windows: tiles for images larger than a canvas, then scaling, padding, cropping and flip.

A network that takes images of any size may get whole images instead: a window is then the image at a scale, padded to a
size that few other sizes share (`windows.coarse`).
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.windows import Reach, Side, coarse, scaled_size
from cpnet_jax.models.cpnet import OUTPUT_STRIDE

Example = dict[str, Any]
Span = tuple[int, int]


class PendingImage:
    """An example, its (height, width), and the part of its result that is complete."""

    def __init__(self, example: Example, largest_side: int) -> None:
        self.example = example
        self.size: tuple[int, int] = example["image"].shape[:2]
        self._spans = [_spans(side, largest_side) for side in self.size]
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
            self.result = np.empty((*self.size, *found.shape[2:]), found.dtype)
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
      scale: its scale.
      scaled: (height, width) of the image at that scale.
      corner: (row, column) of its first pixel in the image at that scale.
      rows, columns: rows and columns of the tile that it reaches.
      flipped: whether it is mirrored left to right.
      first, last: whether it is the first or last window of its tile.
      begins, ends: whether it is the first or last window of its pass over the tile. The logits of a pass can be
        averaged before they become probabilities.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    tile: Tile
    scale: float
    scaled: tuple[int, int]
    corner: tuple[int, int]
    rows: Reach
    columns: Reach
    flipped: bool
    first: bool
    last: bool
    begins: bool
    ends: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def real(self) -> Bool[np.ndarray, "h8 w8"]:
        """Whether each position at output stride 8 has a pixel of the image; the others are padding."""
        rows, columns = (
            begin + np.arange(0, crop, OUTPUT_STRIDE) < side
            for begin, crop, side in zip(self.corner, self.size, self.scaled, strict=True)
        )
        real = rows[:, None] & columns
        return real[:, ::-1] if self.flipped else real


class WindowBatch(NamedTuple):
    """The windows, all of one size, that the devices compute at once.

    Attributes:
      devices: the windows of each device, at most `slots`.
      slots: windows that each device computes; the missing ones are blank.
    """

    devices: list[list[Window]]
    slots: int

    def numbered(self) -> Iterator[tuple[int, Window]]:
        """The windows with their numbers among the slots of all devices."""
        for device, windows in enumerate(self.devices):
            yield from enumerate(windows, device * self.slots)

    @property
    def empty(self) -> bool:
        return not any(self.devices)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its windows; there must be one."""
        return next(window.size for _, window in self.numbered())


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


def cut(
    images: ImageQueue, protocol: Protocol, crop_size: tuple[int, int], mean: Sequence[float]
) -> Iterator[Window | None]:
    """Yields all windows, tile after tile; yields None, without end, whenever no tile is available."""
    while True:
        tile = images.next_tile()
        if tile is None:
            yield None
        else:
            yield from windows_of(tile, protocol, crop_size, mean)


def windows_of(
    tile: Tile, protocol: Protocol, crop_size: tuple[int, int] | None, mean: Sequence[float]
) -> Iterator[Window]:
    """Windows pass by pass, row by row; a mirrored window follows its original if they are of one pass.

    Args:
      crop_size: of the windows; None: whole images, each in one window of `padded_size`.
      mean: colour of the padding, RGB.
    """
    passes = list(_passes(tile, crop_size, protocol))
    image, scaled, scaled_as = tile.image.example["image"], None, None
    for number, positions in enumerate(passes):
        for index, position in enumerate(positions):
            if scaled is None or position.scale != scaled_as:
                scaled, scaled_as = _scaled(image, position.scaled, position.crop_size, mean), position.scale
            begins, ends = index == 0, index == len(positions) - 1
            yield Window(
                pixels=_crop(scaled, position),
                tile=tile,
                scale=position.scale,
                scaled=position.scaled,
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
    """A window's scale, the image's size at that scale, and the window's place there and in the tile."""

    scale: float
    scaled: tuple[int, int]
    crop_size: tuple[int, int]
    top: int
    left: int
    rows: Reach
    columns: Reach
    flipped: bool


def padded_size(image: PendingImage, scale: float) -> tuple[int, int]:
    """(height, width) of the window of a whole image. It depends on nothing else than the image's size and the scale,
    so that a prediction does not depend on the other images."""
    height, width = (coarse(scaled_size(side, scale)) for side in image.size)
    return height, width


def _passes(tile: Tile, crop_size: tuple[int, int] | None, protocol: Protocol) -> Iterator[list[_Position]]:
    """Yields the windows of each pass: those of one scale, and for averaged logits only the mirrored ones or the rest.

    Averaged logits are those of the mirrored image, cut into windows from its own left edge.
    """
    flips = (False, True) if protocol.flip else (False,)
    of_mirrored_image = protocol.overlap == "average_logits"
    for scale in protocol.scales:
        crop = crop_size or padded_size(tile.image, scale)
        for flips_of_pass in [(flipped,) for flipped in flips] if of_mirrored_image else [flips]:
            mirrored = of_mirrored_image and flips_of_pass[0]
            places = _places(tile, scale, crop, protocol, mirrored)
            yield [place._replace(flipped=flipped) for place in places for flipped in flips_of_pass]


def _places(
    tile: Tile, scale: float, crop_size: tuple[int, int], protocol: Protocol, mirrored: bool
) -> Iterator[_Position]:
    """Yields the places of a scale's windows that reach the tile, row by row."""
    (height, width), average = tile.image.size, protocol.overlap != "sum"
    sides = (
        Side(height, scale, crop_size[0], average=average),
        Side(width, scale, crop_size[1], average=average, mirrored=mirrored),
    )
    rows, columns = (
        [(offset, reached) for offset in side.offsets if (reached := side.reach(offset, *span))]
        for side, span in zip(sides, (tile.rows, tile.columns), strict=True)
    )
    scaled = (sides[0].scaled, sides[1].scaled)
    for (top, row_reach), (left, column_reach) in itertools.product(rows, columns):
        yield _Position(scale, scaled, crop_size, top, left, row_reach, column_reach, False)


def _crop(scaled: UInt8[np.ndarray, "rows columns 3"], position: _Position) -> UInt8[np.ndarray, "h w 3"]:
    (height, width), (top, left) = position.crop_size, (position.top, position.left)
    pixels = scaled[top : top + height, left : left + width]
    return pixels[:, ::-1] if position.flipped else pixels


def _scaled(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], crop_size: tuple[int, int], mean: Sequence[float]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The image resized, then padded at the bottom and right with the mean colour to at least the crop size."""
    height, width = size
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    missing = [max(crop - side, 0) for crop, side in zip(crop_size, (height, width), strict=True)]
    if not any(missing):
        return image
    colour = np.round(mean).tolist()
    return cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=colour)


def _spans(side: int, largest: int) -> list[Span]:
    """Splits a side into the fewest, nearly equal parts of at most `largest`."""
    count = -(-side // largest)
    edges = [side * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))
