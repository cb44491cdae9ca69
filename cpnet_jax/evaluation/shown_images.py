"""The images that an evaluation keeps in predictions/: panels for people, labels and predictions for programs.

predictions/ID_panel.png         the image, its label and its prediction side by side, above a legend
predictions/ID_label.png         the label: class indices, 8 bits, one channel
predictions/ID_prediction.png    the predicted classes, likewise
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from cpnet_jax.data import pictures
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.image_files import open_image
from cpnet_jax.evaluation.samples import Sample
from cpnet_jax.inference.outputs import write_png
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

FOLDER = "predictions"
PANEL, LABEL, PREDICTION = "_panel.png", "_label.png", "_prediction.png"


def write(folder: AnyPath, sample: Sample, dataset: Dataset) -> None:
    """Writes the three files of an image; raises OSError."""
    stem = folder / FOLDER / sample.id
    with files.replacing(stem.with_name(stem.name + PANEL)) as temporary:
        pictures.panel(sample.image, sample.label, sample.prediction, dataset).save(temporary, format="PNG")
    write_png(stem.with_name(stem.name + LABEL), sample.label)
    write_png(stem.with_name(stem.name + PREDICTION), sample.prediction)


def read(folder: AnyPath, most: int) -> Iterator[Sample]:
    """Yields up to `most` images that were kept whole, in the order of their names; their `figures` are empty."""
    found = 0
    for path in sorted((folder / FOLDER).glob(f"**/*{LABEL}")):
        stem = path.name.removesuffix(LABEL)
        try:
            label = _indices(path)
            prediction = _indices(path.with_name(stem + PREDICTION))
            panel = open_image(path.with_name(stem + PANEL).read_bytes())
            image = pictures.image_of_panel(panel, label.shape)
        except (OSError, ValueError):  # files of something else, or of an interrupted evaluation
            continue
        if prediction.shape == label.shape and found < most:
            found += 1
            name = str(path.relative_to(folder / FOLDER)).removesuffix(LABEL)
            yield Sample(name, image, label, prediction, {})


def _indices(path: AnyPath) -> UInt8[np.ndarray, "h w"]:
    """Reads a file of class indices; raises ValueError if it is of another kind."""
    image = open_image(path.read_bytes())
    if image.mode != "L":
        raise ValueError(f"{path} has no single channel of 8 bits")
    return np.asarray(image)
