"""The test-time protocol: scales, flip and overlap of windows."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """The test-time protocol.

    The default is that of the paper's ablations. The paper's final results use several scales and flip.

    Attributes:
      scales: factors on the image's sides; the scores of all scales are added.
      flip: whether each window is also predicted mirrored.
      overlap: how the scores of overlapping windows are combined, "sum" or "average". The authors' evaluator uses
        "sum", which gives pixels in overlaps more weight among the scales.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    overlap: Literal["sum", "average"] = "sum"
