"""The document that shows a prediction: report/template/result.html, which needs nothing else."""

import base64
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.demo.picture import LONGEST_SIDE, Prediction
from cpnet_jax.evaluation.report.embed import jpeg
from cpnet_jax.evaluation.report.environment import environment
from cpnet_jax.runtime.standard_streams import printable

# Classes whose probabilities are shown under the pointer.
MOST_SHOWN = 5
# Probabilities are kept on a grid with this longest side, as 8 bits each.
LONGEST_GRID = 256
LARGEST_PICTURE = 2_000_000  # characters


def render(
    prediction: Prediction, dataset: Dataset, prior: Mapping[str, Any] | None = None, without_prior: str = ""
) -> str:
    """The document, in HTML.

    Args:
      prior: what template/prior.js draws; None to leave the section out.
      without_prior: the reason, if it is left out.
    """
    classes = prediction.classes
    count = np.bincount(classes.ravel(), minlength=len(dataset.classes))
    present = np.argsort(-count, kind="stable").tolist()
    template = environment().get_template("result.html")
    picture = jpeg(Image.fromarray(prediction.image), LONGEST_SIDE, LARGEST_PICTURE)
    payload = {
        "classes": [printable(name) for name in dataset.classes],
        "palette": [list(colour) for colour in dataset.palette],
        "size": list(classes.shape),
        "pixels": _encoded(classes),
        "likely": _likely(prediction.probabilities),
    }
    legend = [(i, dataset.classes[i], dataset.palette[i], float(count[i] / classes.size)) for i in present if count[i]]
    return template.render(
        name=prediction.name,
        stored=prediction.stored,
        size=classes.shape,
        picture=picture,
        legend=legend,
        payload=payload,
        touchable=prior,
        without_prior=without_prior,
    )


def _likely(probabilities: Float[np.ndarray, "h w k"]) -> dict[str, Any]:
    """The most probable classes on a coarser grid, and their probabilities times 255."""
    height, width, count = probabilities.shape
    factor = min(LONGEST_GRID / max(height, width), 1)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    # OpenCV resizes up to 4 channels at once, some versions up to 512; a channel at a time also needs less memory.
    coarse = np.stack(
        [cv2.resize(probabilities[..., k], size, interpolation=cv2.INTER_AREA) for k in range(count)], axis=-1
    )
    order = np.argsort(-coarse, axis=-1, kind="stable")[..., :MOST_SHOWN]
    values = np.round(255 * np.take_along_axis(coarse, order, axis=-1)).astype(np.uint8)
    return {
        "size": list(order.shape[:2]),
        "count": order.shape[2],
        "classes": _encoded(order.astype(np.uint8)),
        "values": _encoded(values),
    }


def _encoded(values: UInt8[np.ndarray, "..."]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
