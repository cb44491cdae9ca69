"""A trained network as whoever predicts with it sees it, wherever it was loaded from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Array, Float, UInt8

from cpnet_jax.data.catalog import Dataset


@dataclass(frozen=True)
class TrainedModel:
    """Attributes:
    dataset: whose classes it knows, their colours and the ignore label.
    crop_size: (height, width) of the windows it sees.
    mean, std: of the images it was trained on, RGB, 0 .. 255.
    logits: windows at output stride 8; both split over the devices' mesh along their first axis.
    origin: where it comes from (experiment, step, file), for reports.
    """

    dataset: Dataset
    crop_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    logits: Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h/8 w/8 k"]]
    origin: dict[str, Any] = field(default_factory=dict)
