"""Where two predictions of an image differ, and which of them is right."""

from enum import IntEnum

import cv2
import numpy as np
from jaxtyping import UInt8

from cpnet_jax.data.pictures import DARKEST_RIGHT, IGNORED_COLOUR, RIGHT_COLOUR

Classes = UInt8[np.ndarray, "h w"]


class Kind(IntEnum):
    """What two predictions of a pixel are, compared with its label."""

    BOTH_RIGHT = 0
    ONLY_FIRST = 1
    ONLY_OTHER = 2
    WRONG_ALIKE = 3
    WRONG_APART = 4
    IGNORED = 5


# Blue and vermilion of Okabe and Ito's palette, which differ in brightness, too; the others are greys.
COLOURS = {
    Kind.BOTH_RIGHT: RIGHT_COLOUR,
    Kind.ONLY_FIRST: (213, 94, 0),
    Kind.ONLY_OTHER: (0, 114, 178),
    Kind.WRONG_ALIKE: (150, 150, 150),
    Kind.WRONG_APART: (85, 85, 85),
    Kind.IGNORED: IGNORED_COLOUR,
}


def kinds(label: Classes, first: Classes, other: Classes, ignore_label: int) -> Classes:
    """The `Kind` of every pixel."""
    found = np.where(first == other, np.uint8(Kind.WRONG_ALIKE), np.uint8(Kind.WRONG_APART))
    found[(first == label) & (other != label)] = Kind.ONLY_FIRST
    found[(first != label) & (other == label)] = Kind.ONLY_OTHER
    found[(first == label) & (other == label)] = Kind.BOTH_RIGHT
    found[label == ignore_label] = Kind.IGNORED
    return found


def shares(found: Classes) -> dict[Kind, float]:
    """The share of each kind among the labelled pixels; empty if there are none."""
    count = np.bincount(found.ravel(), minlength=len(Kind))[: Kind.IGNORED]
    return {Kind(kind): float(number / count.sum()) for kind, number in enumerate(count)} if count.any() else {}


def picture(image: UInt8[np.ndarray, "h w 3"], found: Classes) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the kinds; where both are right, the image in pale greys."""
    table = np.array([COLOURS[kind] for kind in Kind], np.uint8)
    drawn = table[found]
    pale = np.linspace(DARKEST_RIGHT, 255, 256).round().astype(np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.where((found == Kind.BOTH_RIGHT)[..., None], pale[grey], drawn)
