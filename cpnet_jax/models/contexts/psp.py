"""Pyramid pooling of PSPNet (Zhao et al., CVPR 2017)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cpnet_jax.models.layers import ConvBN
from cpnet_jax.models.resampling import adaptive_average_pool, upsample


class PyramidPooling(nn.Module):
    """x concatenated with its means over several grids, each through a 1x1 convolution, BatchNorm and ReLU, upsampled.

    Follows mmsegmentation's PSPHead, whose last 3x3 convolution is the head's here.

    Attributes:
      channels: of each grid (512).
      pool_sizes: sides of the grids.
      dtype: of the activations.

    Raises:
      ValueError: if a side is not positive.
    """

    channels: int = 512
    pool_sizes: tuple[int, ...] = (1, 2, 3, 6)
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool, real: Bool[Array, "b h w"] | None = None
    ) -> Float[Array, "b h w c2"]:
        if min(self.pool_sizes, default=1) < 1:
            raise ValueError(f"pool_sizes are {self.pool_sizes}: each must be 1 or more")
        parts = [x]
        for index, size in enumerate(self.pool_sizes):
            pooled = adaptive_average_pool(x, (size, size), real).astype(x.dtype)
            pooled = ConvBN(self.channels, (1, 1), dtype=self.dtype, name=f"pool{index}")(pooled, train=train)
            # Interpolate in float32, because bfloat16 would round the weights to three digits.
            full = pooled.astype(jnp.promote_types(x.dtype, jnp.float32))
            parts.append(upsample(full, x.shape[1:3], real).astype(pooled.dtype))
        return jnp.concatenate(parts, axis=-1)
