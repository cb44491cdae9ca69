"""A trained network, independent of where it was loaded from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Array, Float

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.value_range import ValueRange


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with all that prediction needs to know about it.

    Attributes:
      dataset: its classes, their colours and the ignore label.
      crop_size: (height, width) of its input windows.
      mean, std: normalisation constants, RGB, in units of 0 .. 255.
      logits: maps windows to logits at output stride 8; both are split over the mesh along their first axis. With
        `any_size`, it takes images of any size in multiples of 8, and an optional second argument: which positions of
        the logits are real, Bool (b, h/8, w/8). The others are padding.
      value_range: range by which training images of more than 8 bits were scaled; None: divided by 256, or there were
        none.
      any_size: whether images may be predicted whole, without windows.
      origin: experiment, step and file that it comes from, for reports.
    """

    dataset: Dataset
    crop_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    logits: Callable[..., Float[Array, "b h/8 w/8 k"]]
    value_range: ValueRange | None = None
    any_size: bool = False
    origin: dict[str, Any] = field(default_factory=dict)
