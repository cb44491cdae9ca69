"""Paints a picture and its label map together, from back to front."""

from typing import NamedTuple

import cv2
import numpy as np

IGNORED = 255

_SUBPIXEL_BITS = 4  # polygon corners are rounded to 1/16 of a pixel


class Part(NamedTuple):
    """A polygon of an object: corners (N, 2), x right and y up, and an RGB colour, 0 .. 1."""

    corners: np.ndarray
    colour: np.ndarray


class Slot(NamedTuple):
    """A place for an object, drawn before the object is chosen; in pixels."""

    x: float
    foot: float
    height: float
    mirror: int  # 1 or -1
    rim: bool  # whether the object has a rim of ignored pixels in the labels


class Frame(NamedTuple):
    """A rectangle of a canvas, in pixels, in which a place is laid out.

    Attributes:
      scale: unit of the objects' heights.
      lanes: (start, length) of the range of the objects' middles, as shares of the width.
      counts: (least, largest) number of objects.
      block: (right, down), by how many pixels a room's block is moved away from the objects.
    """

    top: float
    left: float
    height: float
    width: float
    scale: float
    lanes: tuple[float, float] = (0.06, 0.88)
    counts: tuple[int, int] = (2, 4)
    block: tuple[float, float] = (0, 0)

    @classmethod
    def whole(cls, size: tuple[int, int]) -> "Frame":
        """Returns the frame of a place that fills a canvas; objects may be cut at its sides."""
        return cls(0, 0, *size, scale=size[0])


class Canvas:
    """A picture, float32 (h, w, 3) in 0 .. 1, and its labels, uint8 (h, w), painted in layers."""

    def __init__(self, size: tuple[int, int], relief: np.ndarray):
        self.size = size
        self.image = np.zeros((*size, 3), np.float32)
        self.label = np.full(size, IGNORED, np.uint8)
        self._relief = relief  # (h, w, 1), multiplied into flat colours to give them texture

    def cover(self, mask: np.ndarray, texture: np.ndarray, label: int, rim: bool = False):
        """Paints a texture (h, w, 3) and its label where an antialiased mask (h, w) is set."""
        self.image += mask[..., None] * (texture - self.image)
        self._mark(mask, self.label, label, rim)

    def shade(self, mask: np.ndarray, factor: float):
        """Multiplies the brightness where a mask (h, w) is set; labels do not change."""
        self.image *= 1 + (factor - 1) * mask[..., None]

    def stand(self, parts: list[Part], slot: Slot, label: int):
        """Paints an object at a slot, scaled, moved and mirrored to fit it."""
        scale = slot.height * np.array([slot.mirror, -1])
        outlines = [part.corners * scale + (slot.x, slot.foot) for part in parts]
        box = self._bounding_box(np.concatenate(outlines))
        image, relief = self.image[box], self._relief[box]
        silhouette = np.zeros(image.shape[:2], np.float32)
        corner = (box[1].start, box[0].start)
        for part, outline in zip(parts, outlines, strict=True):
            mask = polygon(outline - corner, silhouette.shape)
            image += mask[..., None] * (part.colour * relief - image)
            np.maximum(silhouette, mask, out=silhouette)
        self._mark(silhouette, self.label[box], label, slot.rim)

    def _bounding_box(self, points: np.ndarray) -> tuple[slice, slice]:
        """Returns the bounding box of points, with room for a rim, clipped to the picture."""
        low = np.clip(np.floor(points.min(0)).astype(int) - 3, 0, None)
        high = np.minimum(np.ceil(points.max(0)).astype(int) + 3, self.size[::-1])
        return slice(low[1], high[1]), slice(low[0], high[0])

    @staticmethod
    def _mark(mask: np.ndarray, labels: np.ndarray, label: int, rim: bool):
        """Label the inside of a mask; a rim of one ignored pixel around it imitates annotators."""
        inside = mask > 0.5
        labels[inside] = label
        if rim:
            grown = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8))
            labels[(grown > 0) & ~inside] = IGNORED


def polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draws the antialiased mask, float32 (h, w) in 0 .. 1, of a polygon with pixel corners (N, 2)."""
    mask = np.zeros(size, np.uint8)
    fixed = np.round(corners * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask.astype(np.float32) / 255


def below(profile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draws the antialiased mask, float32 (h, w) in 0 .. 1, of the area below a skyline (w,)."""
    rows = np.arange(size[0], dtype=np.float32)[:, None]
    return np.clip(rows - profile + 0.5, 0, 1).astype(np.float32) * np.ones(size, np.float32)
