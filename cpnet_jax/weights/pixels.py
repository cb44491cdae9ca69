"""The images that weights expect: order of the channels, mean and standard deviation.

A network here sees RGB, less config.data.mean and over config.data.std. What differs from that is put into the first
convolution, as far as that is exact: another order is a permutation of its input channels, another standard deviation
scales them. Another mean would be a bias, but beyond the border, where the convolution reads zeros, there is none.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

import cpnet_jax
from cpnet_jax.errors import UserError

Triple = tuple[float, float, float]
# Of every layout; a whole network has its backbone's below "backbone.".
FIRST_CONVOLUTIONS = ("conv1.weight", "conv1.0.weight", "stem.0.weight")
# In the metadata of every file that --mode=convert writes.
MARK = "cpnet_jax"
# Of 0 .. 255: what people round a mean to.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Pixels:
    """Attributes:
    mean, std: of the images, in the order R, G, B whatever `order` is, 0 .. 255.
    order: of the first convolution's input channels.
    """

    mean: Triple = (123.675, 116.28, 103.53)  # ImageNet's: torchvision, timm, open-mmlab's v1c, the authors' CPNet
    std: Triple = (58.395, 57.12, 57.375)
    order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        """Raises ValueError, or TypeError, on what no images have."""
        for values in (self.mean, self.std):
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise ValueError(f"{values} are not three numbers")
        if min(self.std) <= 0:
            raise ValueError(f"a standard deviation of {_numbers(self.std)} is not positive")
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"the order of channels is {self.order!r}")

    def __str__(self) -> str:
        return f"{self.order.upper()} images of mean {_numbers(self.mean)} and standard deviation {_numbers(self.std)}"

    def as_metadata(self) -> dict[str, str]:
        """For the metadata of a file, from where `described` has it again."""
        return {
            MARK: cpnet_jax.__version__,
            "mean": json.dumps(list(self.mean)),
            "std": json.dumps(list(self.std)),
            "channel_order": self.order,
        }


def described(metadata: Mapping[str, Any], card: Mapping[str, Any], name: str = "the file") -> Pixels:
    """What a file says of its images; ImageNet's in RGB where it says nothing.

    Args:
      metadata: of a file that --mode=convert has written.
      card: timm's config.json, whose numbers are of 0 .. 1.
      name: of the file, for messages.

    Raises:
      UserError: where it says what cannot be.
    """
    try:
        if MARK in metadata:
            mean, std = (tuple(json.loads(metadata[field])) for field in ("mean", "std"))
            return Pixels(mean, std, metadata["channel_order"])
        known = card.get("pretrained_cfg", {})
        if "mean" in known and "std" in known:
            return Pixels(*(tuple(round(255 * value, 4) for value in known[field]) for field in ("mean", "std")))
    except (KeyError, TypeError, ValueError) as error:
        where = "its metadata" if MARK in metadata else "the config.json beside it"
        raise UserError(
            f"{name}: {where} cannot be right about the images that the weights expect ({type(error).__name__}: "
            f"{error}): mend that, or take it away"
        ) from error
    return Pixels()


def adapt(
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    theirs: Pixels,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    name: str = "the weights",
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The tensors for RGB images of that mean and standard deviation; those of a network that expects them unchanged.

    Args:
      tensors: a ResNet's or a CPNet's by PyTorch's names.
      theirs: the images they were trained on.
      mean, std: R, G, B, 0 .. 255.
      name: of the file, for messages.

    Raises:
      UserError: where the mean differs, or the first convolution of 3 channels is not found.
    """
    if not np.allclose(theirs.mean, mean, rtol=0, atol=TOLERANCE):
        raise UserError(
            f"{name} expects images of another mean than config.data.mean={_numbers(mean)}, which no weights can make "
            f"up for at the border: set config.data.mean={_numbers(theirs.mean)}"
        )
    factor = np.asarray(std, np.float64) / np.asarray(theirs.std, np.float64)
    same_std = np.allclose(factor, 1, rtol=0, atol=1e-6)
    if same_std and theirs.order == "rgb":
        return dict(tensors)
    key = next((key for key in tensors if key.removeprefix("backbone.") in FIRST_CONVOLUTIONS), None)
    if key is None or tensors[key].ndim != 4 or tensors[key].shape[1] != 3:
        raise UserError(f"{name} has no first convolution of 3 channels: name a ResNet, or a CPNet with one")
    kernel = tensors[key] if theirs.order == "rgb" else tensors[key][:, ::-1]
    if not same_std:
        kernel = (kernel * factor[:, None, None]).astype(tensors[key].dtype)
    return {**tensors, key: np.ascontiguousarray(kernel)}


def _numbers(values: Sequence[float]) -> str:
    return f"({','.join(f'{value:g}' for value in values)})"
