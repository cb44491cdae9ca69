"""Atrous spatial pyramid pooling of DeepLabV3 (Chen et al., 2017)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cpnet_jax.models.layers import ConvBN
from cpnet_jax.models.resampling import adaptive_average_pool


class ASPP(nn.Module):
    """Parallel branches, concatenated: the image's mean, a 1x1 convolution and dilated 3x3 convolutions.

    Each branch has BatchNorm and ReLU. Follows mmsegmentation's ASPPHead, whose last 3x3 convolution is the head's here
    (the paper has a 1x1 convolution instead). The mean is over the whole image, whatever its size.

    Attributes:
      channels: of each branch (512; the paper: 256).
      dilations: of the 3x3 convolutions; the defaults are the paper's for output stride 8.
      dtype: of the activations.

    Raises:
      ValueError: if a dilation is not positive.
    """

    channels: int = 512
    dilations: tuple[int, ...] = (12, 24, 36)
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool, real: Bool[Array, "b h w"] | None = None
    ) -> Float[Array, "b h w c2"]:
        if min(self.dilations, default=1) < 1:
            raise ValueError(f"dilations are {self.dilations}: each must be 1 or more")
        mean = adaptive_average_pool(x, (1, 1), real).astype(x.dtype)
        mean = ConvBN(self.channels, (1, 1), dtype=self.dtype, name="image_pool")(mean, train=train)
        branches = [jnp.broadcast_to(mean, (*x.shape[:3], self.channels))]
        for index, dilation in enumerate((None, *self.dilations)):
            kernel, dilation = ((3, 3), dilation) if dilation else ((1, 1), 1)
            branch = ConvBN(self.channels, kernel, dilation=dilation, dtype=self.dtype, name=f"branch{index}")
            branches.append(branch(x, train=train))
        return jnp.concatenate(branches, axis=-1)
