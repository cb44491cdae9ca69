"""Images as cells of pixels, on which the first convolutions are ones of many channels.

The stem has few channels and large images, and 3 or 32 channels leave most of the 128 lanes of a TPU's tiles empty. In
a cell the channels of n x n neighbouring positions follow each other, (H, W, C) -> (H/n, W/n, n*n*C), column by column.
A convolution of the positions is one of the cells, whose kernel holds the same weights, and zeros between positions
that the former does not connect: more arithmetic, which the matrix units have to spare, in full tiles.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cpnet_jax.models.forms.max_pool import first_largest
from cpnet_jax.models.layers import BatchNorm, he_fan_out

# Positions on a side of the cells that a convolution gives; with a stride of 2 it takes cells of twice as many.
SIDE = 2


def to_cells(x: Float[Array, "b h w c"], side: int) -> Float[Array, "b h/side w/side side*side*c"]:
    """Images whose sides `side` divides, as cells of side x side positions."""
    b, h, w, c = x.shape
    # As slices, which XLA:TPU takes a tenth of the time for that a transposition of the same would take.
    columns = jnp.concatenate([x[:, row::side] for row in range(side)], axis=-1)
    return columns.reshape(b, h // side, w // side, side * side * c)


class ConvBNOfCells(nn.Module):
    """`layers.ConvBN` with a ReLU, of cells: the same numbers but for rounding, and the same parameters.

    Takes cells of stride * SIDE positions a side, and gives such of SIDE.

    Attributes:
      features: output channels of a position.
      kernel_size: of a square kernel of positions, odd.
      stride: in positions.
      dtype: of the activations; parameters and statistics stay float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h w cells*features"]:
        x = _ConvOfCells(self.features, self.kernel_size, self.stride, self.dtype, name="conv")(x)
        return nn.relu(BatchNorm(dtype=self.dtype, positions=SIDE * SIDE, name="bn")(x, train=train))


class _ConvOfCells(nn.Module):
    features: int
    kernel_size: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cells*features"]:
        channels = x.shape[-1] // (self.stride * SIDE) ** 2
        kernel = self.param("kernel", he_fan_out, (self.kernel_size, self.kernel_size, channels, self.features))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        kernel, padding = kernel_of_cells(kernel, self.stride)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), (padding, padding), dimension_numbers=layout)


def kernel_of_cells(
    kernel: Float[Array, "k k cin cout"], stride: int
) -> tuple[Float[Array, "n n cells*cin cells2*cout"], tuple[int, int]]:
    """A kernel of positions, centred and odd, as one of cells -> (the kernel, its padding before and behind).

    An output cell begins where an input cell does. Output position u of it takes the input positions
    stride * u + tap - k // 2, counted from there, which lie in cells from -padding[0] to padding[1].
    """
    size, side = kernel.shape[0], stride * SIDE
    reach = size // 2
    before, behind = -(-reach // side), (stride * (SIDE - 1) + reach) // side
    cells = before + 1 + behind
    # Of (input cell, position in it, output position, tap): 1 where the tap connects the two.
    connected = np.zeros((cells, side, SIDE, size))
    for output in range(SIDE):
        for tap in range(size):
            cell, position = divmod(before * side + stride * output + tap - reach, side)
            connected[cell, position, output, tap] = 1
    connected = connected.astype(kernel.dtype)
    # Rows y (cell), i (position), u (output), s (tap); columns x, j, v, t: columns first within a cell.
    of_cells = jnp.einsum("yius,xjvt,stco->yxjicvuo", connected, connected, kernel)
    return of_cells.reshape(cells, cells, side**2 * kernel.shape[2], SIDE**2 * kernel.shape[3]), (before, behind)


def max_pool_of_cells(x: Float[Array, "b h w 4*c"]) -> Float[Array, "b h w c"]:
    """The 3x3 max-pool of stride 2 of positions, padded by 1, of their cells of 2x2.

    Written out in comparisons: pooling over windows of cells has no counterpart in XLA. Of equal maxima the first in
    the order of rows has the gradient, as in XLA and torch.
    """
    return _largest_of_three(_largest_of_three(x, axis=2), axis=1)


def _largest_of_three(x: Float[Array, "b h w 2*c"], axis: int) -> Float[Array, "b h w c"]:
    """Along the columns (2) or rows (1) of cells that hold two positions: of these, and the one before them."""
    first, second = jnp.split(x, 2, axis=-1)
    one_before = [(0, 0, 0)] * x.ndim
    one_before[axis] = (1, -1, 0)
    before = jax.lax.pad(second, jnp.array(-jnp.inf, x.dtype), one_before)
    return first_largest(first_largest(before, first), second)
