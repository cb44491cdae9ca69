"""How an image is shown to the network at test time."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """Scales, flip, and what happens where windows overlap. The default is what the paper's ablations report; its
    final figures are with several scales and flip.

    Attributes:
      scales: factors on the image's sides; the scores of all are added.
      flip: each window is shown mirrored as well.
      overlap: where windows overlap, their scores are added ("sum": the authors' evaluator, which gives such pixels
        more weight among the scales) or averaged ("average").
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    overlap: Literal["sum", "average"] = "sum"
