"""The test-time protocol: scales, flip and overlap of windows."""

from dataclasses import dataclass
from typing import Literal

Overlap = Literal["sum", "average", "average_logits"]


@dataclass(frozen=True)
class Protocol:
    """The test-time protocol.

    The default is that of the paper's ablations. The paper's final results use several scales and flip.

    Attributes:
      scales: factors on the image's sides; the probabilities of all scales are added.
      flip: whether each window is also predicted mirrored; with "average_logits", the image is mirrored before it is
        cut into windows.
      overlap: how overlapping windows are combined.
        "sum": probabilities are added, as in the authors' evaluator. Pixels in overlaps weigh more among the scales.
        "average": probabilities are averaged.
        "average_logits": logits are averaged, then become probabilities, for each scale and mirrored or not; as in
        mmsegmentation.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    overlap: Overlap = "sum"
