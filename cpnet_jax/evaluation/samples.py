"""Single images of an evaluation, kept to be looked at."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class Sample:
    """An image and what the network made of it.

    Attributes:
      id: its name in the dataset.
      label, prediction: classes, or the dataset's ignore label.
      figures: of this image alone, in [0, 1] by name; None where it has none.
    """

    id: str
    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]
    prediction: UInt8[np.ndarray, "h w"]
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class PriorSample:
    """A window as the network saw it, and some rows of its context prior.

    Attributes:
      id: of the image it is from.
      positions: (row, column) in the prior's grid, which divides the window evenly.
      rows: P_i of each position over that grid, in [0, 1].
      ideal: what they should be; None where there is no label.
    """

    id: str
    image: UInt8[np.ndarray, "H W 3"]
    positions: tuple[tuple[int, int], ...]
    rows: Float[np.ndarray, "p h w"]
    ideal: Float[np.ndarray, "p h w"] | None = None
