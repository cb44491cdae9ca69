"""The stem after a space-to-depth rearrangement, which fills the tiles of TPUs.

The stem has large images of few channels, and 3 or 32 channels leave most of the 128 lanes of a TPU's tile empty.
Space-to-depth joins the channels of n x n neighbouring positions, (H, W, C) -> (H/n, W/n, n*n*C), column by column
within such a block. A convolution of positions becomes a convolution of blocks. Its kernel holds the same weights, and
zeros between positions that the original kernel does not connect: more arithmetic, but in full tiles.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cpnet_jax.models.forms.max_pool import maximum_first_wins
from cpnet_jax.models.layers import BatchNorm, he_fan_out

# Positions on a side of a convolution's output blocks; its input blocks have stride * SIDE.
SIDE = 2


def space_to_depth(x: Float[Array, "b h w c"], side: int) -> Float[Array, "b h2 w2 c2"]:
    """Rearranges images into blocks of side x side positions; `side` must divide the images' sides."""
    b, h, w, c = x.shape
    # Slices instead of a transposition, which takes XLA:TPU ten times as long.
    columns = jnp.concatenate([x[:, row::side] for row in range(side)], axis=-1)
    return columns.reshape(b, h // side, w // side, side * side * c)


class SpaceToDepthConvBN(nn.Module):
    """`layers.ConvBN` with ReLU on blocks of positions: equal results except for rounding, and equal parameters.

    Takes blocks of stride * SIDE positions a side and returns blocks of SIDE.

    Attributes:
      features: output channels of a position.
      kernel_size: (height, width) in positions; equal and odd.
      stride: in positions.
      dtype: of the activations; parameters and statistics stay float32.
    """

    features: int
    kernel_size: tuple[int, int]
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h w features2"]:
        x = _Conv(self.features, self.kernel_size, self.stride, self.dtype, name="conv")(x)
        return nn.relu(BatchNorm(dtype=self.dtype, positions=SIDE * SIDE, name="bn")(x, train=train))


class _Conv(nn.Module):
    features: int
    kernel_size: tuple[int, int]
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w features2"]:
        channels = x.shape[-1] // (self.stride * SIDE) ** 2
        kernel = self.param("kernel", he_fan_out, (*self.kernel_size, channels, self.features))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        kernel, padding = block_kernel(kernel, self.stride)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), (padding, padding), dimension_numbers=layout)


def block_kernel(
    kernel: Float[Array, "k k cin cout"], stride: int
) -> tuple[Float[Array, "n n cin2 cout2"], tuple[int, int]]:
    """Turns a kernel of positions, centred and odd, into one of blocks.

    An output block begins where an input block does. Counted from there, its output position u takes the input
    positions stride * u + tap - k // 2, which lie in the input blocks from -padding[0] to padding[1].

    Returns:
      (the kernel, its padding in blocks before and after).
    """
    size, side = kernel.shape[0], stride * SIDE
    reach = size // 2
    before, after = -(-reach // side), (stride * (SIDE - 1) + reach) // side
    blocks = before + 1 + after
    # [input block, position in it, output position, tap]: 1 if the tap connects the two positions.
    connected = np.zeros((blocks, side, SIDE, size))
    for output in range(SIDE):
        for tap in range(size):
            block, position = divmod(before * side + stride * output + tap - reach, side)
            connected[block, position, output, tap] = 1
    connected = connected.astype(kernel.dtype)
    # Rows y (block), i (position), u (output), s (tap); columns x, j, v, t: columns first within a block.
    result = jnp.einsum("yius,xjvt,stco->yxjicvuo", connected, connected, kernel)
    return result.reshape(blocks, blocks, side**2 * kernel.shape[2], SIDE**2 * kernel.shape[3]), (before, after)


def max_pool(x: Float[Array, "b h w c4"]) -> Float[Array, "b h w c"]:
    """The 3x3 max-pool of stride 2, padded by 1, on blocks of 2x2 positions.

    Written in comparisons, because XLA's pooling does not work on blocks. If several maxima are equal, the first in
    row-major order gets the gradient, as in XLA and torch.
    """
    return _max_of_three(_max_of_three(x, axis=2), axis=1)


def _max_of_three(x: Float[Array, "b h w c2"], axis: int) -> Float[Array, "b h w c"]:
    """Maximum along columns (axis 2) or rows (1) of a block's two positions and the one before them."""
    first, second = jnp.split(x, 2, axis=-1)
    one_before = [(0, 0, 0)] * x.ndim
    one_before[axis] = (1, -1, 0)
    before = jax.lax.pad(second, jnp.array(-jnp.inf, x.dtype), one_before)
    return maximum_first_wins(maximum_first_wins(before, first), second)
