"""A picture and its label map, painted together from back to front."""

from typing import NamedTuple

import cv2
import numpy as np

IGNORED = 255

_SUBPIXEL_BITS = 4  # polygon corners are kept to a sixteenth of a pixel


class Part(NamedTuple):
    """One flat piece of a thing: corners (N, 2), x right and y up, and an RGB colour."""

    corners: np.ndarray
    colour: np.ndarray


class Slot(NamedTuple):
    """A spot where a thing may stand, chosen before it is known which thing will."""

    x: float
    foot: float
    height: float
    mirror: int  # 1 or -1
    rim: bool  # whether a void rim surrounds the thing in the labels


class Canvas:
    """Pixels (H, W, 3) float32 in 0..1 and labels (H, W) uint8, written by layers."""

    def __init__(self, size: tuple[int, int], relief: np.ndarray):
        self.size = size
        self.image = np.zeros((*size, 3), np.float32)
        self.label = np.full(size, IGNORED, np.uint8)
        self._relief = relief  # (H, W, 1), so that flat paint is never perfectly flat

    def cover(self, mask: np.ndarray, texture: np.ndarray, label: int, rim: bool = False):
        """Lay a texture (H, W, 3) and its label under an antialiased mask (H, W)."""
        self.image += mask[..., None] * (texture - self.image)
        self._mark(mask, self.label, label, rim)

    def shade(self, mask: np.ndarray, factor: float):
        """Multiply the light under a mask (H, W); labels stay."""
        self.image *= 1 + (factor - 1) * mask[..., None]

    def stand(self, parts: list[Part], slot: Slot, label: int):
        """Paint a thing at a slot, scaled, placed and mirrored as the slot says."""
        scale = slot.height * np.array([slot.mirror, -1])
        outlines = [part.corners * scale + (slot.x, slot.foot) for part in parts]
        window = self._window(np.concatenate(outlines))
        image, relief = self.image[window], self._relief[window]
        silhouette = np.zeros(image.shape[:2], np.float32)
        corner = (window[1].start, window[0].start)
        for part, outline in zip(parts, outlines, strict=True):
            mask = polygon(outline - corner, silhouette.shape)
            image += mask[..., None] * (part.colour * relief - image)
            np.maximum(silhouette, mask, out=silhouette)
        self._mark(silhouette, self.label[window], label, slot.rim)

    def _window(self, points: np.ndarray) -> tuple[slice, slice]:
        """The part of the frame around some points, with room for a rim."""
        low = np.clip(np.floor(points.min(0)).astype(int) - 3, 0, None)
        high = np.minimum(np.ceil(points.max(0)).astype(int) + 3, self.size[::-1])
        return slice(low[1], high[1]), slice(low[0], high[0])

    @staticmethod
    def _mark(mask: np.ndarray, labels: np.ndarray, label: int, rim: bool):
        """Label the inside of a mask; leave a pixel of void around it, as annotators do."""
        inside = mask > 0.5
        labels[inside] = label
        if rim:
            grown = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8))
            labels[(grown > 0) & ~inside] = IGNORED


def polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased mask (H, W) float32 of a polygon given by pixel corners (N, 2)."""
    mask = np.zeros(size, np.uint8)
    fixed = np.round(corners * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask.astype(np.float32) / 255


def below(profile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased mask (H, W) float32 of all that lies under a skyline (W,)."""
    rows = np.arange(size[0], dtype=np.float32)[:, None]
    return np.clip(rows - profile + 0.5, 0, 1).astype(np.float32) * np.ones(size, np.float32)
