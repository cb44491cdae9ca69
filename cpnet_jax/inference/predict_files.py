"""Predicts image files and hands the results to a writer."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from cpnet_jax.data.value_range import ValueRange
from cpnet_jax.errors import UserError
from cpnet_jax.inference.images import read_ahead, read_image
from cpnet_jax.inference.inputs import InputImage
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.outputs import PredictionWriter
from cpnet_jax.inference.predictor import Predictor
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.runtime.progress import Progress

READING_THREADS = 2
# An image without a brighter value is almost black; values of 12 bits divided by 256 are at most 15.
ALMOST_BLACK = 15


def predict_files(
    images: Sequence[InputImage],
    predictor: Predictor,
    writer: PredictionWriter,
    *,
    upright: bool = True,
    value_range: ValueRange | None = None,
    probabilities: bool = False,
) -> list[UserError]:
    """Predicts and writes every image that can be read; returns one error for each of the others.

    Prints a note if images are almost black.

    Args:
      upright, value_range: how to read the images; see `read_image`.
      probabilities: whether to write the probabilities, too.

    Raises:
      UserError: if a prediction cannot be written.
    """
    unreadable: list[UserError] = []
    dark: list[InputImage] = []
    read = partial(_read, upright=upright, value_range=value_range)
    with Progress(len(images), "Predicting", unit="image") as progress:
        counted = 0
        predictions = _predictions(predictor, _examples(images, read, unreadable, dark), probabilities)
        for done, (example, classes, scores) in enumerate(predictions, start=1):
            writer.write(example["input"], example["image"], classes, scores)
            for _ in range(counted, done + len(unreadable)):
                progress.advance()
            counted = done + len(unreadable)
    if dark:
        print(
            f"Note: {len(dark)} image(s) are almost black, such as {dark[0].path}: if their values have fewer bits "
            "than their files, multiply the values, or train on such images"
        )
    return unreadable


def description(model: TrainedModel, protocol: Protocol, *, windows: bool = True) -> dict[str, Any]:
    """The contents of predictions.json: the meaning of the class indices, the network and the settings.

    Args:
      windows: whether images are cut into windows.
    """
    return {
        "classes": list(model.dataset.classes),
        "palette": [list(colour) for colour in model.dataset.palette],
        "network": {name: value for name, value in model.origin.items() if name != "eval"},
        "settings": {**vars(protocol), "windows": windows, "window": list(model.crop_size) if windows else None},
    }


def _examples(
    images: Sequence[InputImage],
    read: Callable[[InputImage], UInt8[np.ndarray, "h w 3"] | UserError],
    unreadable: list[UserError],
    dark: list[InputImage],
) -> Iterator[dict[str, Any]]:
    for image, pixels in zip(images, read_ahead(read, images, threads=READING_THREADS), strict=True):
        if isinstance(pixels, UserError):
            unreadable.append(pixels)
        else:
            if pixels.max() <= ALMOST_BLACK:
                dark.append(image)
            yield {"input": image, "image": pixels}


def _read(
    image: InputImage, *, upright: bool, value_range: ValueRange | None
) -> UInt8[np.ndarray, "h w 3"] | UserError:
    try:
        return read_image(image.path, upright=upright, value_range=value_range)
    except UserError as error:
        return error


def _predictions(
    predictor: Predictor, examples: Iterator[dict[str, Any]], probabilities: bool
) -> Iterator[tuple[dict[str, Any], UInt8[np.ndarray, "h w"], Float[np.ndarray, "h w k"] | None]]:
    if not probabilities:
        yield from ((example, classes, None) for example, classes in predictor.classes(examples))
        return
    for example, scores in predictor.probabilities(examples):
        yield example, scores.argmax(axis=-1).astype(np.uint8), scores
