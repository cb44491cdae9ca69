"""The Aggregation Module of the paper: a large receptive field from asymmetric depthwise convolutions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from cpnet_jax.models.layers import BatchNorm, ConvBN, conv, he_depthwise


class SeparablePair(nn.Module):
    """Two depthwise convolutions in a row, with nothing in between."""

    first: Callable[[], nn.Module]
    second: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.second()(self.first()(x))


class Aggregation(nn.Module):
    """X -> X~: a 3x3 reduction, the sum of both orders of a k x 1 and a 1 x k convolution, BatchNorm and ReLU.

    Attributes:
      channels: of the output (the paper: 512).
      kernel_size: k, odd (the paper: 11, the peak of its ablation).
      dtype: of the activations.

    Raises:
      ValueError: if the kernel size is not odd and positive.
    """

    channels: int = 512
    kernel_size: int = 11
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h w channels"]:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}: it must be odd and positive")
        depthwise = partial(
            conv,
            self.channels,
            feature_group_count=self.channels,
            use_bias=True,
            kernel_init=he_depthwise,
            dtype=self.dtype,
        )
        column = partial(depthwise, (self.kernel_size, 1), name="column")
        row = partial(depthwise, (1, self.kernel_size), name="row")

        x = ConvBN(self.channels, (3, 3), dtype=self.dtype, name="reduce")(x, train=train)
        x = SeparablePair(column, row, name="column_row")(x) + SeparablePair(row, column, name="row_column")(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train=train))
