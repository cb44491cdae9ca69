"""Adapts weights to images of another channel order or standard deviation.

A network of this package sees RGB images, minus config.data.mean, divided by config.data.std. Other weights are adapted
in the first convolution: another channel order permutes its input channels, another standard deviation scales them.
Both are exact. Another mean would become a bias, which is wrong at the border, where the convolution reads zeros.
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
from cpnet_jax.runtime import files

Triple = tuple[float, float, float]
# In every layout; a whole network has the prefix "backbone.".
FIRST_CONVOLUTIONS = ("conv1.weight", "conv1.0.weight", "stem.0.weight")
# Metadata entry of every file that --mode=convert writes.
MARK = "cpnet_jax"
# Means that are rounded differently differ by less; in units of 0 .. 255.
TOLERANCE = 0.01


@dataclass(frozen=True)
class InputNormalization:
    """Normalisation of the images that a network expects; by default that of most ImageNet weights.

    Attributes:
      mean, std: of R, G, B (whatever `order` is), in units of 0 .. 255.
      order: of the first convolution's input channels.
    """

    mean: Triple = (123.675, 116.28, 103.53)  # ImageNet's: torchvision, timm, open-mmlab's v1c, the authors' CPNet
    std: Triple = (58.395, 57.12, 57.375)
    order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError on impossible values."""
        for values in (self.mean, self.std):
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise ValueError(f"{values} are not three finite numbers")
        if min(self.std) <= 0:
            raise ValueError(f"a standard deviation of {_numbers(self.std)} is not positive")
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"the order of channels is {self.order!r}")

    def __str__(self) -> str:
        return f"{self.order.upper()} images of mean {_numbers(self.mean)} and standard deviation {_numbers(self.std)}"

    def as_metadata(self) -> dict[str, str]:
        """Metadata of a file, for `from_metadata`."""
        return {
            MARK: cpnet_jax.__version__,
            "mean": json.dumps(list(self.mean)),
            "std": json.dumps(list(self.std)),
            "channel_order": self.order,
        }


def from_metadata(metadata: Mapping[str, Any], card: Mapping[str, Any], name: str = "the file") -> InputNormalization:
    """Normalisation that a file states; ImageNet's in RGB if it states none.

    Args:
      metadata: of the file; read if --mode=convert wrote it.
      card: timm's config.json, with numbers in units of 0 .. 1.
      name: of the file, for messages.

    Raises:
      UserError: if the stated values are impossible.
    """
    try:
        if MARK in metadata:
            mean, std = (tuple(files.parse_json(metadata[field])) for field in ("mean", "std"))
            return InputNormalization(mean, std, metadata["channel_order"])
        known = card.get("pretrained_cfg", {})
        if "mean" in known and "std" in known:
            mean, std = (tuple(round(255 * value, 4) for value in known[field]) for field in ("mean", "std"))
            return InputNormalization(mean, std)
    except (KeyError, TypeError, ValueError) as error:
        where = "its metadata" if MARK in metadata else "the config.json beside it"
        raise UserError(
            f"{name}: {where} states an impossible normalisation of the images ({type(error).__name__}: {error}): "
            "correct or remove it"
        ) from error
    return InputNormalization()


def adapt(
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    theirs: InputNormalization,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    name: str = "the weights",
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Adapts the first convolution to RGB images of another standard deviation.

    Args:
      tensors: of a ResNet or CPNet, by PyTorch's names.
      theirs: normalisation of the images that they were trained on.
      mean, std: of R, G, B, in units of 0 .. 255, by which images will be normalised.
      name: of the file, for messages.

    Returns:
      The tensors; unchanged if the normalisation is the same.

    Raises:
      UserError: if the means differ, or there is no first convolution with 3 input channels.
    """
    if not np.allclose(theirs.mean, mean, rtol=0, atol=TOLERANCE):
        raise UserError(
            f"{name} expects images of another mean than config.data.mean={_numbers(mean)}, and the weights cannot be "
            f"adapted to that: set config.data.mean={_numbers(theirs.mean)}"
        )
    factor = np.asarray(std, np.float64) / np.asarray(theirs.std, np.float64)
    same_std = np.allclose(factor, 1, rtol=0, atol=1e-6)
    if same_std and theirs.order == "rgb":
        return dict(tensors)
    key = next((key for key in tensors if key.removeprefix("backbone.") in FIRST_CONVOLUTIONS), None)
    if key is None or tensors[key].ndim != 4 or tensors[key].shape[1] != 3:
        raise UserError(f"{name} has no first convolution with 3 input channels: name a ResNet, or a CPNet with one")
    kernel = tensors[key] if theirs.order == "rgb" else tensors[key][:, ::-1]
    if not same_std:
        kernel = (kernel * factor[:, None, None]).astype(tensors[key].dtype)
    return {**tensors, key: np.ascontiguousarray(kernel)}


def _numbers(values: Sequence[float]) -> str:
    return f"({','.join(f'{value:g}' for value in values)})"
