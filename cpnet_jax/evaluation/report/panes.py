"""Pictures as the pages show them: classes over an image, in panes of bounded size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cpnet_jax.data import pictures
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation.report.embed import Embedded, jpeg, shrink

# Limit for all pictures of a page together, in characters.
PICTURES_LIMIT = 5_000_000
LONGEST_SIDE = 640
# Small images are enlarged to about this side, so that their pixels stay sharp.
SHORT_SIDE = 256


@dataclass(frozen=True)
class Pane:
    """A picture with its title and alternative text."""

    title: str
    alt: str
    picture: Embedded


def pane(title: str, alt: str, pixels: UInt8[np.ndarray, "h w 3"] | Image.Image, limit: int) -> Pane:
    """Embeds a picture in at most `limit` characters; small ones are enlarged."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    factor = min(SHORT_SIDE // min(picture.size), LONGEST_SIDE // max(picture.size))
    if factor > 1:
        enlarged = (picture.width * factor, picture.height * factor)
        picture = picture.resize(enlarged, Image.Resampling.NEAREST)
    return Pane(title, alt, jpeg(picture, LONGEST_SIDE, limit))


def shown_size(image: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    """(width, height) in which a page shows an image."""
    return shrink(image.shape[1::-1], LONGEST_SIDE)


def resized(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Resized to (width, height) by averaging, so that thin objects stay visible."""
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def classes_over_image(
    image: UInt8[np.ndarray, "H W 3"], classes: UInt8[np.ndarray, "h w"], dataset: Dataset
) -> UInt8[np.ndarray, "H W 3"]:
    """Class colours over an image that has been resized for the page."""
    colours = pictures.colourise(classes, dataset.palette, dataset.ignore_label)
    return pictures.overlay(image, resized(colours, image.shape[1::-1]))
