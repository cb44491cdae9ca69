"""The images that an evaluation keeps in predictions/: panels for people, labels and predictions for programs.

predictions/ID_panel.png         the image, its label and its prediction side by side, above a legend
predictions/ID_label.png         the label: class indices, 8 bits, one channel
predictions/ID_prediction.png    the predicted classes, likewise
predictions/shown.json           the IDs of the evaluation that wrote eval.json; other files are older ones
"""

from collections.abc import Iterator, Sequence

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
INDEX = "shown.json"
PANEL, LABEL, PREDICTION = "_panel.png", "_label.png", "_prediction.png"


def write(folder: AnyPath, sample: Sample, dataset: Dataset) -> None:
    """Writes the three files of an image; raises OSError."""
    stem = folder / FOLDER / sample.id
    with files.replacing(stem.with_name(stem.name + PANEL)) as temporary:
        pictures.panel(sample.image, sample.label, sample.prediction, dataset).save(temporary, format="PNG")
    write_png(stem.with_name(stem.name + LABEL), sample.label)
    write_png(stem.with_name(stem.name + PREDICTION), sample.prediction)


def forget(folder: AnyPath) -> None:
    """Removes the index, before another evaluation replaces eval.json; raises OSError."""
    index = folder / FOLDER / INDEX
    with files.store_errors(index):
        index.unlink(missing_ok=True)


def write_index(folder: AnyPath, ids: Sequence[str]) -> None:
    """Lists the images of the present evaluation, once all of them are written; raises OSError."""
    files.write_json(folder / FOLDER / INDEX, sorted(ids))


def read(folder: AnyPath, most: int) -> Iterator[Sample]:
    """Yields up to `most` images of the index that were kept whole, in order; their `figures` are empty."""
    found = 0
    for name in _indexed(folder):
        if found == most:
            return
        stem = folder / FOLDER / name
        try:
            label, prediction = (_indices(stem.with_name(stem.name + suffix)) for suffix in (LABEL, PREDICTION))
            panel = open_image(stem.with_name(stem.name + PANEL).read_bytes())
            image = pictures.image_of_panel(panel, label.shape)
        except (OSError, ValueError):  # damaged or removed since
            continue
        if prediction.shape == label.shape:
            found += 1
            yield Sample(name, image, label, prediction, {})


def _indexed(folder: AnyPath) -> list[str]:
    """The IDs in the index; none if it is missing, as in workdirs of earlier versions, or damaged."""
    try:
        ids = files.parse_json((folder / FOLDER / INDEX).read_bytes())
    except (OSError, ValueError):
        return []
    return ids if isinstance(ids, list) and all(isinstance(name, str) and name for name in ids) else []


def _indices(path: AnyPath) -> UInt8[np.ndarray, "h w"]:
    """Reads a file of class indices; raises ValueError if it is of another kind."""
    image = open_image(path.read_bytes())
    if image.mode != "L":
        raise ValueError(f"{path} has no single channel of 8 bits")
    return np.asarray(image)
