"""Draws the confusion matrix with class names along its sides, and lists the most frequent confusions."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image

from cpnet_jax.evaluation.report.embed import Embedded, png

# One hue whose opacity grows with the share, so that zero has the page's background, light or dark.
HUE = (29, 105, 214)
MOST_CONFUSIONS = 20
# Longer names along the sides are cut; the tooltip shows them whole.
LONGEST_NAME = 24
# (largest number of classes, side of a cell, font size).
SIZES = ((14, 46, 12), (30, 30, 11), (60, 16, 11), (256, 11, 9))
# With more classes, the cells are too small for figures.
MOST_WITH_FIGURES = 30
# Above this share, a cell is dark enough for white text.
DARK = 0.6


@dataclass(frozen=True)
class Cell:
    """A figure inside the matrix, in percent of its row."""

    x: float
    y: float
    text: str
    on_dark: bool


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix as the page's SVG draws it, in the SVG's units.

    Attributes:
      cell, letters, margin: side of a cell, font size, space for names at the left and top.
      names: class names along the sides.
      present: whether each class has labelled pixels; rows of the others are empty.
      cells: the figures in the cells; empty if there are too many classes to read them.
    """

    picture: Embedded
    cell: int
    letters: int
    margin: int
    names: tuple[str, ...]
    present: tuple[bool, ...]
    cells: tuple[Cell, ...]

    @property
    def side(self) -> int:
        return self.margin + self.cell * len(self.names) + 1


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class predicted as another: count, share of the class, share of all wrong pixels."""

    true: int
    predicted: int
    pixels: int
    of_class: float
    of_errors: float


def draw_matrix(confusion: Int64[np.ndarray, "k k"], classes: Sequence[str]) -> Matrix:
    """Draws the matrix with true classes as rows that sum to 1; rows without labelled pixels are empty."""
    shares = _row_shares(confusion)
    cell, letters = next((cell, letters) for most, cell, letters in SIZES if len(classes) <= most)
    names = tuple(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in classes)
    margin = round(max(map(_ems, names)) * letters) + 12
    figures = _figures(shares, cell, margin) if len(classes) <= MOST_WITH_FIGURES else ()
    present = tuple((confusion.sum(axis=1) > 0).tolist())
    return Matrix(_picture(shares, cell), cell, letters, margin, names, present, tuple(figures))


def _ems(name: str) -> float:
    """About how wide a name is drawn, in units of the font's size."""
    return sum(1 if unicodedata.east_asian_width(letter) in "WF" else 0.62 for letter in name)


def frequent_confusions(confusion: Int64[np.ndarray, "k k"]) -> list[Confusion]:
    """The largest non-zero entries off the diagonal, largest first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    rows, columns = np.unravel_index(largest[wrong.ravel()[largest] > 0], wrong.shape)
    labelled, total = confusion.sum(axis=1), wrong.sum()
    return [
        Confusion(int(t), int(p), int(wrong[t, p]), float(wrong[t, p] / labelled[t]), float(wrong[t, p] / total))
        for t, p in zip(rows, columns, strict=True)
    ]


def _row_shares(confusion: Int64[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def _picture(shares: Float[np.ndarray, "k k"], cell: int) -> Embedded:
    """Opacity is the square root of the share, so that a confusion of 1 % is still visible."""
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = HUE
    pixels[..., 3] = np.round(255 * np.sqrt(shares))
    # Cells are drawn at their final size, because some browsers blur enlarged pixels.
    return png(Image.fromarray(pixels.repeat(cell, axis=0).repeat(cell, axis=1)))


def _figures(shares: Float[np.ndarray, "k k"], cell: int, margin: int) -> list[Cell]:
    return [
        Cell(margin + (j + 0.5) * cell, margin + (i + 0.5) * cell, f"{100 * share:.0f}", bool(share > DARK))
        for (i, j), share in np.ndenumerate(shares)
        if share >= 0.005
    ]
