"""A picture of bounded size, and its prediction by a trained network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from cpnet_jax.data.image_files import announced_pixels
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation.report.embed import shrink
from cpnet_jax.inference.images import read_image
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.settings import make_predictor

# Limits of a file: its bytes, and its pixels, of which an image needs 3 bytes each in memory.
LARGEST_FILE = 32 * 2**20
MOST_PIXELS = 64_000_000
# Larger pictures are shrunk to this many times the training crop: objects in photographs of cameras have many more
# pixels than those in training images, and probabilities need 4 bytes for each class of each pixel.
MOST_CROPS = 2
LONGEST_SIDE = 1536


@dataclass(frozen=True)
class Prediction:
    """A picture and the probabilities of its classes.

    Attributes:
      name: that of its file.
      stored: (height, width) of the file's picture, upright.
      image: the picture as it was predicted.
      probabilities: of each class, at every pixel of `image`.
    """

    name: str
    stored: tuple[int, int]
    image: UInt8[np.ndarray, "h w 3"]
    probabilities: Float[np.ndarray, "h w k"]

    @cached_property
    def classes(self) -> UInt8[np.ndarray, "h w"]:
        """The most probable class of every pixel."""
        return self.probabilities.argmax(axis=-1).astype(np.uint8)


def make_predict(
    model: TrainedModel, mesh: Mesh, settings: Mapping[str, Any] | None = None
) -> Callable[[Path], Prediction]:
    """Returns the function that predicts an image file; it raises UserError if the file cannot be read.

    Args:
      settings: the fields of config.eval to predict with; None: those stored with the network.

    Raises:
      UserError: if the network cannot predict with these settings.
    """
    settings = model.origin.get("eval") or {} if settings is None else settings
    longest = min(MOST_CROPS * max(model.crop_size), LONGEST_SIDE)
    predictor = make_predictor(model, mesh, settings)

    def predict(path: Path) -> Prediction:
        image = read_bounded(path, model)
        shown = shrunk(image, longest)
        [(_, probabilities)] = predictor.probabilities([{"image": shown}])
        return Prediction(path.name, image.shape[:2], shown, probabilities)

    return predict


def read_bounded(path: Path, model: TrainedModel) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file, upright and as training read its images.

    Raises:
      UserError: if the file is something else or damaged, or has too many bytes or pixels.
    """
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise UserError(
            f"{path.name} has {size / 2**20:.0f} MiB, and this page takes up to {LARGEST_FILE // 2**20}: shrink it, or "
            "use --mode=predict"
        )
    if (pixels := announced_pixels(path.read_bytes())) > MOST_PIXELS:
        raise UserError(
            f"{path.name} has {pixels / 1e6:.0f} million pixels, and this page takes up to {MOST_PIXELS // 10**6}: "
            "shrink it, or use --mode=predict"
        )
    try:
        return read_image(path, value_range=model.value_range)
    except UserError as error:
        # The folder of uploads says nothing to the user.
        raise UserError(str(error).replace(str(path), path.name)) from error


def shrunk(image: UInt8[np.ndarray, "h w 3"], longest: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with no side above `longest`; the aspect ratio is kept up to rounding."""
    size = shrink(image.shape[1::-1], longest)
    return image if size == image.shape[1::-1] else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
