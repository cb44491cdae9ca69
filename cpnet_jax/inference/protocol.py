"""How an image is shown to the network at test time."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """The paper's protocol is its scales with flip; (1.0,) without is what its ablations report.

    Attributes:
      scales: factors on the image's sides; the scores of all are added.
      flip: each window is shown mirrored as well.
      overlap: where windows overlap, their scores are added ("sum": the authors' evaluator, which gives such pixels
        more weight among the scales) or averaged ("average").
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    overlap: Literal["sum", "average"] = "sum"
