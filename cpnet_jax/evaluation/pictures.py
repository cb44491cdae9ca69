"""Pictures of predictions with a legend of the classes they show, of their errors, and of the context prior."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from cpnet_jax.data.catalog import Colour, Dataset
from cpnet_jax.evaluation.samples import PriorSample

# Small images are enlarged to about this height, so that a legend fits under them.
PANEL_HEIGHT = 256
MAX_WIDTH = 1024
# A pane is at least as wide as its title, three of them as any class's name.
MIN_PANE = 96
GAP = 6
BACKGROUND = (255, 255, 255)
IGNORED_COLOUR = (0, 0, 0)
# Error maps are told apart by brightness alone, whatever colours an eye or a printer knows: right is the image itself
# in pale greys, wrong the vermilion of Okabe and Ito's palette, ignored black.
DARKEST_RIGHT = 190
RIGHT_COLOUR = ((DARKEST_RIGHT + 255) // 2,) * 3  # in legends
WRONG_COLOUR = (213, 94, 0)
# Of a prior row over its image.
HEAT_OPACITY = 0.75
# Of the discs that mark positions, in parts of the shorter side: still readable where pictures are shown small.
MARK_RADIUS = 1 / 24
LEAST_MARK_RADIUS = 9
# A prior panel is several windows wide; larger ones are shrunk to this side.
LONGEST_PRIOR_PANE = 320


def colourise(
    classes: UInt8[np.ndarray, "h w"], palette: Sequence[Colour], ignore_label: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Class indices in their colours; ignored pixels black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[ignore_label] = IGNORED_COLOUR
    return table[classes]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], colours: UInt8[np.ndarray, "h w 3"], opacity: float = 0.6
) -> UInt8[np.ndarray, "h w 3"]:
    """Colours laid over the image's grey values, so that both remain readable."""
    grey = image.mean(axis=-1, keepdims=True)
    return np.round((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def error_map(
    image: UInt8[np.ndarray, "h w 3"],
    label: UInt8[np.ndarray, "h w"],
    prediction: UInt8[np.ndarray, "h w"],
    ignore_label: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """Where the prediction is right (the image in pale greys), wrong (vermilion) or not counted (black)."""
    pale = np.linspace(DARKEST_RIGHT, 255, 256).round().astype(np.uint8)
    picture = pale[cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)]
    picture[label != prediction] = WRONG_COLOUR
    picture[label == ignore_label] = IGNORED_COLOUR
    return picture


def heat(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Values in [0, 1] as colours, from dark blue to yellow; brightness grows with the value."""
    levels = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def prior_row(
    image: UInt8[np.ndarray, "H W 3"], row: Float[np.ndarray, "h w"], mark: tuple[int, int], number: int
) -> Image.Image:
    """A row of the prior as heat over its window, the position it belongs to marked by its number.

    Args:
      image: a window whose sides the prior's grid divides.
      row: in [0, 1], over the prior's grid.
      mark: (row, column) in that grid.
    """
    height, width = image.shape[:2]
    blocks = np.repeat(np.repeat(heat(row), height // row.shape[0], axis=0), width // row.shape[1], axis=1)
    return marked(overlay(image, blocks, HEAT_OPACITY), [mark], row.shape, first=number)


def marked(
    image: UInt8[np.ndarray, "H W 3"], positions: Sequence[tuple[int, int]], grid: tuple[int, int], *, first: int = 1
) -> Image.Image:
    """The image with a numbered disc on each position (row, column) of a grid laid over it, enlarged if small."""
    picture = Image.fromarray(image)
    factor = _enlargement(image.shape)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    radius = max(MARK_RADIUS * min(picture.size), LEAST_MARK_RADIUS)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(1.5 * radius)
    for number, (row, column) in enumerate(positions, start=first):
        x, y = (column + 0.5) * picture.width / grid[1], (row + 0.5) * picture.height / grid[0]
        draw.circle((x, y), radius, fill=(255, 255, 255), outline=(0, 0, 0), width=round(radius / 5))
        draw.text((x, y), str(number), fill=(0, 0, 0), font=font, anchor="mm")
    return picture


def prior_panel(sample: PriorSample) -> Image.Image:
    """One picture to look at: the window with the chosen positions; beside it a column for each, P_i over the ideal."""
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
    strip = _titles([title], [width])
    picture = Image.new("RGB", (width, strip.height + tile.height + GAP), BACKGROUND)
    picture.paste(strip, (0, 0))
    picture.paste(tile, (0, strip.height))
    return picture


def _heat_scale(width: int) -> Image.Image:
    """The colours of `heat` from 0 to 1."""
    strip = Image.new("RGB", (width, 26), BACKGROUND)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    bar = np.broadcast_to(np.linspace(0, 1, width - 32), (14, width - 32))
    strip.paste(Image.fromarray(heat(bar)), (16, 6))
    draw.text((4, 5), "0", fill=(0, 0, 0), font=font)
    draw.text((width - 12, 5), "1", fill=(0, 0, 0), font=font)
    return strip


def panel(
    image: UInt8[np.ndarray, "h w 3"],
    label: UInt8[np.ndarray, "h w"],
    prediction: UInt8[np.ndarray, "h w"],
    dataset: Dataset,
) -> Image.Image:
    """One picture to look at: the image, its label and the prediction over it, and a legend."""
    shown = [image]
    for classes in (label, prediction):
        shown.append(overlay(image, colourise(classes, dataset.palette, dataset.ignore_label)))
    factor = _enlargement(image.shape)
    tiles = [Image.fromarray(tile).resize((tile.shape[1] * factor, tile.shape[0] * factor), 0) for tile in shown]
    pane = max(tiles[0].width, MIN_PANE)
    width = 3 * (pane + GAP) - GAP
    present = sorted({*np.unique(label).tolist(), *np.unique(prediction).tolist()} - {dataset.ignore_label})
    caption = legend([dataset.classes[i] for i in present], [dataset.palette[i] for i in present], width)
    titles = _titles(("image", "label", "prediction"), [pane] * 3)
    picture = Image.new("RGB", (width, titles.height + tiles[0].height + caption.height), BACKGROUND)
    picture.paste(titles, (0, 0))
    left = 0
    for tile in tiles:
        picture.paste(tile, (left, titles.height))
        left += pane + GAP
    picture.paste(caption, (0, titles.height + tiles[0].height))
    return picture


def _enlargement(shape: tuple[int, ...]) -> int:
    return max(min(round(PANEL_HEIGHT / shape[0]), MAX_WIDTH // shape[1]), 1)


def _titles(names: Sequence[str], widths: Sequence[int]) -> Image.Image:
    strip = Image.new("RGB", (sum(widths) + GAP * (len(widths) - 1), 22), BACKGROUND)
    draw, left = ImageDraw.Draw(strip), 0
    for name, width in zip(names, widths, strict=True):
        draw.text((left + 2, 4), name, fill=(0, 0, 0), font=ImageFont.load_default(13))
        left += width + GAP
    return strip


def legend(names: Sequence[str], colours: Sequence[Colour], width: int) -> Image.Image:
    """A strip `width` pixels wide with a swatch for each name, in as many lines as that takes."""
    font, line = ImageFont.load_default(13), 22
    places, left, row = [], 2, 0
    for name in names:
        extent = int(font.getlength(name)) + 34
        if left > 2 and left + extent > width:
            left, row = 2, row + 1
        places.append((left, row * line + 4))
        left += extent
    strip = Image.new("RGB", (width, (row + 1) * line + 4), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for name, colour, (x, y) in zip(names, colours, places, strict=True):
        draw.rectangle((x, y + 1, x + 14, y + 15), fill=tuple(colour), outline=(0, 0, 0))
        draw.text((x + 20, y), name, fill=(0, 0, 0), font=font)
    return strip
