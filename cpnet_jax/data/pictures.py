"""Draws labels, predictions and error maps, with a legend of the classes shown."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from cpnet_jax.data import fonts
from cpnet_jax.data.catalog import Colour, Dataset
from cpnet_jax.data.large_images import bands

# Height to which small images are enlarged, in pixels, so that a legend fits under them.
PANEL_HEIGHT = 256
MAX_WIDTH = 1024
# Smallest width of a pane, so that its title fits, and any class name fits under three panes.
MIN_PANE = 96
GAP = 6
LEGEND_SIZE = 13  # of its letters
BACKGROUND = (255, 255, 255)
IGNORED_COLOUR = (0, 0, 0)
# Error maps are readable in greyscale and by colour-blind readers, since brightness alone separates the three kinds:
# correct is the image in pale greys, wrong is the vermilion of Okabe and Ito's palette, ignored is black.
DARKEST_RIGHT = 190
RIGHT_COLOUR = ((DARKEST_RIGHT + 255) // 2,) * 3  # in legends
WRONG_COLOUR = (213, 94, 0)


def colourise(
    classes: UInt8[np.ndarray, "h w"], palette: Sequence[Colour], ignore_label: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Maps class indices to RGB colours; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[ignore_label] = IGNORED_COLOUR
    return table[classes]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], colours: UInt8[np.ndarray, "h w 3"], opacity: float = 0.6
) -> UInt8[np.ndarray, "h w 3"]:
    """Blends colours over the image in grey; `opacity` is the weight of the colours, 0 .. 1."""
    blended = np.empty(colours.shape, np.uint8)
    for rows in bands(*image.shape[:2]):
        grey = image[rows].mean(axis=-1, keepdims=True)
        blended[rows] = np.round((1 - opacity) * grey + opacity * colours[rows])
    return blended


def error_map(
    image: UInt8[np.ndarray, "h w 3"],
    label: UInt8[np.ndarray, "h w"],
    prediction: UInt8[np.ndarray, "h w"],
    ignore_label: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws correct pixels in the image's pale greys, wrong pixels in vermilion and ignored pixels in black."""
    pale = np.linspace(DARKEST_RIGHT, 255, 256).round().astype(np.uint8)
    picture = pale[cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)]
    picture[label != prediction] = WRONG_COLOUR
    picture[label == ignore_label] = IGNORED_COLOUR
    return picture


def panel(
    image: UInt8[np.ndarray, "h w 3"],
    label: UInt8[np.ndarray, "h w"],
    prediction: UInt8[np.ndarray, "h w"],
    dataset: Dataset,
) -> Image.Image:
    """Draws the image, the label over it and the prediction over it side by side, above a legend."""
    shown = [image]
    for classes in (label, prediction):
        shown.append(overlay(image, colourise(classes, dataset.palette, dataset.ignore_label)))
    factor = enlargement(image.shape)
    tiles = [Image.fromarray(tile).resize((tile.shape[1] * factor, tile.shape[0] * factor), 0) for tile in shown]
    pane = max(tiles[0].width, MIN_PANE)
    width = 3 * (pane + GAP) - GAP
    present = sorted({*np.unique(label).tolist(), *np.unique(prediction).tolist()} - {dataset.ignore_label})
    names = class_names(dataset)
    caption = legend([names[i] for i in present], [dataset.palette[i] for i in present], width)
    strip = titles(("image", "label", "prediction"), [pane] * 3)
    picture = Image.new("RGB", (width, strip.height + tiles[0].height + caption.height), BACKGROUND)
    picture.paste(strip, (0, 0))
    left = 0
    for tile in tiles:
        picture.paste(tile, (left, strip.height))
        left += pane + GAP
    picture.paste(caption, (0, strip.height + tiles[0].height))
    return picture


def image_of_panel(picture: Image.Image, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image that `panel` drew, unchanged.

    Args:
      picture: the panel.
      size: (height, width) of the image.

    Raises:
      ValueError: if the panel is too small for an image of that size.
    """
    factor, strip = enlargement(size), titles(("",), [MIN_PANE]).height
    height, width = size[0] * factor, size[1] * factor
    if picture.width < width or picture.height < strip + height:
        raise ValueError(f"a panel of {picture.width}x{picture.height} holds no image of {size[1]}x{size[0]}")
    shown = np.asarray(picture.convert("RGB").crop((0, strip, width, strip + height)))
    return np.ascontiguousarray(shown[::factor, ::factor])


def enlargement(shape: tuple[int, ...]) -> int:
    """Returns the integer factor by which to enlarge an image of shape (h, w, ...) for display."""
    return max(min(round(PANEL_HEIGHT / shape[0]), MAX_WIDTH // shape[1]), 1)


def titles(names: Sequence[str], widths: Sequence[int]) -> Image.Image:
    """Draws a strip with one title above each pane; `widths` are the panes' widths in pixels."""
    strip = Image.new("RGB", (sum(widths) + GAP * (len(widths) - 1), 22), BACKGROUND)
    draw, left = ImageDraw.Draw(strip), 0
    for name, width in zip(names, widths, strict=True):
        draw.text((left + 2, 4), name, fill=(0, 0, 0), font=ImageFont.load_default(13))
        left += width + GAP
    return strip


def class_names(dataset: Dataset) -> list[str]:
    """The names of the classes in a form that `legend` can draw."""
    return fonts.drawable_names(dataset.classes, LEGEND_SIZE)


def legend(names: Sequence[str], colours: Sequence[Colour], width: int) -> Image.Image:
    """Draws a strip `width` pixels wide with a swatch and name for each class, in as many rows as needed."""
    line = 22
    places, left, row = [], 2, 0
    for name in names:
        extent = int(_legend_font(name).getlength(name)) + 34
        if left > 2 and left + extent > width:
            left, row = 2, row + 1
        places.append((left, row * line + 4))
        left += extent
    strip = Image.new("RGB", (width, (row + 1) * line + 4), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for name, colour, (x, y) in zip(names, colours, places, strict=True):
        draw.rectangle((x, y + 1, x + 14, y + 15), fill=tuple(colour), outline=(0, 0, 0))
        draw.text((x + 20, y), name, fill=(0, 0, 0), font=_legend_font(name))
    return strip


def _legend_font(name: str) -> fonts.Font:
    return fonts.font_for(name, LEGEND_SIZE) or ImageFont.load_default(LEGEND_SIZE)
