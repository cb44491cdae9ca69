"""Draws rows of the context prior as heat maps over their window."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from cpnet_jax.data.pictures import BACKGROUND, GAP, MIN_PANE, enlargement, overlay, titles
from cpnet_jax.evaluation.samples import PriorSample

HEAT_OPACITY = 0.75
# Radius of the numbered discs as a fraction of the shorter side, and the smallest radius in pixels.
MARK_RADIUS = 1 / 24
LEAST_MARK_RADIUS = 9
# A prior panel is several windows wide, so larger windows are shrunk to this side.
LONGEST_PRIOR_PANE = 320


def heat(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Maps values in [0, 1] to colours from dark blue to yellow; brightness grows with the value."""
    levels = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def prior_row(
    image: UInt8[np.ndarray, "H W 3"], row: Float[np.ndarray, "h w"], mark: tuple[int, int], number: int
) -> Image.Image:
    """Draws a row of the prior as a heat map over its window, with a numbered disc on the row's position.

    Args:
      image: a window whose sides are multiples of the prior's grid.
      row: values in [0, 1] over the prior's grid.
      mark: the row's position, (row, column) in that grid.
    """
    height, width = image.shape[:2]
    blocks = np.repeat(np.repeat(heat(row), height // row.shape[0], axis=0), width // row.shape[1], axis=1)
    return marked(overlay(image, blocks, HEAT_OPACITY), [mark], row.shape, first=number)


def marked(
    image: UInt8[np.ndarray, "H W 3"], positions: Sequence[tuple[int, int]], grid: tuple[int, int], *, first: int = 1
) -> Image.Image:
    """Draws numbered discs on positions (row, column) of a grid over the image; small images are enlarged."""
    picture = Image.fromarray(image)
    factor = enlargement(image.shape)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    radius = max(MARK_RADIUS * min(picture.size), LEAST_MARK_RADIUS)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(1.5 * radius)
    for number, (row, column) in enumerate(positions, start=first):
        x, y = (column + 0.5) * picture.width / grid[1], (row + 0.5) * picture.height / grid[0]
        draw.circle((x, y), radius, fill=(255, 255, 255), outline=(0, 0, 0), width=round(radius / 5))
        draw.text((x, y), str(number), fill=(0, 0, 0), font=font, anchor="mm")
    return picture


def prior_panel(sample: PriorSample) -> Image.Image:
    """The window with its positions, and to the right one column per position: prior row over ideal row."""
    columns = [[("positions", marked(sample.image, sample.positions, sample.rows.shape[1:]))]]
    for number, (position, row) in enumerate(zip(sample.positions, sample.rows, strict=True), start=1):
        columns.append([(f"prior of {number}", prior_row(sample.image, row, position, number))])
        if sample.ideal is not None:
            ideal = prior_row(sample.image, sample.ideal[number - 1], position, number)
            columns[-1].append((f"ideal of {number}", ideal))
    tiles = [[_titled(*tile) for tile in column] for column in columns]
    tiles[0].append(_heat_scale(tiles[0][0].width))
    width, height = tiles[0][0].size
    lowest = max(tile.height for column in tiles for tile in column[1:])
    picture = Image.new("RGB", (len(tiles) * (width + GAP) - GAP, height + lowest), BACKGROUND)
    for place, column in enumerate(tiles):
        for below, tile in enumerate(column):
            picture.paste(tile, (place * (width + GAP), below * height))
    return picture


def _titled(title: str, tile: Image.Image) -> Image.Image:
    tile.thumbnail((LONGEST_PRIOR_PANE, LONGEST_PRIOR_PANE))
    width = max(tile.width, MIN_PANE)
    strip = titles([title], [width])
    picture = Image.new("RGB", (width, strip.height + tile.height + GAP), BACKGROUND)
    picture.paste(strip, (0, 0))
    picture.paste(tile, (0, strip.height))
    return picture


def _heat_scale(width: int) -> Image.Image:
    """A colour bar of `heat` from 0 to 1."""
    strip = Image.new("RGB", (width, 26), BACKGROUND)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    bar = np.broadcast_to(np.linspace(0, 1, width - 32), (14, width - 32))
    strip.paste(Image.fromarray(heat(bar)), (16, 6))
    draw.text((4, 5), "0", fill=(0, 0, 0), font=font)
    draw.text((width - 12, 5), "1", fill=(0, 0, 0), font=font)
    return strip
