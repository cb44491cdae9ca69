"""The Aggregation Module of the paper: a large receptive field from asymmetric depthwise convolutions."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from cpnet_jax.models.layers import BatchNorm, ConvBN, conv, he_depthwise


class SeparablePair(nn.Module):
    """Two depthwise convolutions in a row, k x 1 ("column") and 1 x k ("row"), each with bias, nothing in between."""

    kernel_size: int
    column_first: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        shapes = {"column": (self.kernel_size, 1), "row": (1, self.kernel_size)}
        for name in ("column", "row") if self.column_first else ("row", "column"):
            x = conv(
                channels,
                shapes[name],
                feature_group_count=channels,
                use_bias=True,
                kernel_init=he_depthwise,
                dtype=self.dtype,
                name=name,
            )(x)
        return x


class Aggregation(nn.Module):
    """X -> X~: 3x3 reduction, then the sum of the two orders of a k x 1 / 1 x k pair, then BN and ReLU.

    Attributes:
      channels: of the output (the paper: 512).
      kernel_size: k, odd (the paper: 11, the peak of its ablation).
      dtype: of the activations.

    Raises:
      ValueError: on a kernel size that is not odd and positive.
    """

    channels: int = 512
    kernel_size: int = 11
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h w channels"]:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; it must be odd and positive")
        x = ConvBN(self.channels, (3, 3), dtype=self.dtype, name="reduce")(x, train=train)
        column_row = SeparablePair(self.kernel_size, column_first=True, dtype=self.dtype, name="column_row")(x)
        row_column = SeparablePair(self.kernel_size, column_first=False, dtype=self.dtype, name="row_column")(x)
        x = column_row + row_column
        return nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train=train))
