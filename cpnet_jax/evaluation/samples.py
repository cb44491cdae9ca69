"""Single images of an evaluation, kept for the report and TensorBoard."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, UInt8

from cpnet_jax.inference.prior_maps import SampledPrior


@dataclass(frozen=True)
class Sample:
    """An image with its label, prediction and figures.

    Attributes:
      id: the image's name in the dataset.
      label, prediction: classes, or the dataset's ignore label.
      figures: metrics of this image alone, in [0, 1], by name; None if not defined.
    """

    id: str
    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]
    prediction: UInt8[np.ndarray, "h w"]
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class PriorSample:
    """A window and some rows of its context prior.

    Attributes:
      id: the name of the image that the window is from.
      positions: (row, column) in the prior's grid, which divides the window evenly.
      rows: the prior row P_i of each position over that grid, in [0, 1].
      ideal: the same rows of the ideal affinity map; None without a label.
    """

    id: str
    image: UInt8[np.ndarray, "H W 3"]
    positions: tuple[tuple[int, int], ...]
    rows: Float[np.ndarray, "p h w"]
    ideal: Float[np.ndarray, "p h w"] | None = None


@dataclass(frozen=True)
class PriorMap:
    """A window and its whole context prior, at some or all positions.

    Attributes:
      id: the name of the image that the window is from.
      classes: the class of each position of the prior's grid, which divides the window evenly; None without a label.
      marks: positions to show first.
      prior: P over that grid.
    """

    id: str
    image: UInt8[np.ndarray, "H W 3"]
    classes: Integer[np.ndarray, "h w"] | None
    marks: tuple[tuple[int, int], ...]
    prior: SampledPrior
