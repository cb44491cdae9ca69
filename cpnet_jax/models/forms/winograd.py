"""Winograd's minimal filtering F(2x2, 3x3): 3x3 convolutions with 16 products for every 4 outputs instead of 36.

It saves 27% of the CPU time of the quickstart's training step. In one dimension, two neighbouring outputs y0, y1 of the
inputs d0 .. d3 and the weights g0, g1, g2 are

    y0 = m0 + m1 + m2    m0 = (d0 - d2) g0    m1 = (d1 + d2) (g0 + g1 + g2) / 2
    y1 = m1 - m2 - m3    m3 = (d1 - d3) g2    m2 = (d2 - d1) (g0 - g1 + g2) / 2

In two dimensions the same is applied to rows and then to columns (Lavin and Gray, Fast Algorithms for Convolutional
Neural Networks, CVPR 2016, section 4.1). Each product is a matrix product of positions x channels. Every step is linear
in images and kernel, so JAX's gradients need as few products.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float

from cpnet_jax.models.forms.platforms import Size

# Smallest number of products in an image for one weight: positions x input channels x output channels. Smaller
# convolutions gain little, and each takes one or two seconds to compile.
WORTHWHILE = 2**24

# The factors of the products in two dimensions: one list for each of m0 .. m3 in the first dimension.
Factors = list[list[Array]]


def suits(shape: tuple[Size, ...], kernel_shape: tuple[int, ...], dilation: Sequence[int]) -> bool:
    """Whether `convolve` supports images and a kernel of these shapes, and is worth its compile time.

    False for images of symbolic size, as in a network exported for any size.
    """
    _, height, width, channels = shape
    if is_symbolic_dim(height) or is_symbolic_dim(width):
        return False
    pairs_up = height % (2 * dilation[0]) == width % (2 * dilation[1]) == 0
    return kernel_shape[:2] == (3, 3) and pairs_up and height * width * channels * kernel_shape[-1] >= WORTHWHILE


def convolve(
    x: Float[Array, "b h w cin"],
    kernel: Float[Array, "3 3 cin cout"],
    *,
    dilation: Sequence[int],
    columns_first: bool = False,
) -> Float[Array, "b h w cout"]:
    """The 3x3 convolution of stride 1, padded by `dilation` zeros on each side so that the size is kept.

    The order of rows and columns changes rounding only. The gradients use the other order than the value. Otherwise
    XLA would recognise the sums of inputs and weights that both need, and keep them from the forward to the backward
    pass: four times the size of the images. (It ignores optimisation barriers on CPUs.)
    """
    first, second = (2, 1) if columns_first else (1, 2)
    inputs = _in_two_dimensions(partial(_inputs, dilation=dilation), x, first, second)
    # Weights have no batch axis, and each step removes an axis of the window.
    weights = _in_two_dimensions(_weights, kernel, first - 1, 0)
    products = [[_product(*pair) for pair in zip(*row, strict=True)] for row in zip(inputs, weights, strict=True)]
    halves = [_outputs(row, second, dilation) for row in products]
    return _outputs(halves, first, dilation)


def _in_two_dimensions(transform: Callable[[Array, int], list[Array]], x: Array, first: int, second: int) -> Factors:
    """Applies a transform to one axis, and then to another axis of each result."""
    return [transform(part, second) for part in transform(x, first)]


def _product(inputs: Float[Array, "b h2 w2 cin"], weights: Float[Array, "cin cout"]) -> Float[Array, "b h2 w2 cout"]:
    """One matrix product of all positions."""
    return (inputs.reshape(-1, inputs.shape[-1]) @ weights).reshape(*inputs.shape[:-1], weights.shape[-1])


def _inputs(x: Float[Array, "b h w c"], axis: int, dilation: Sequence[int]) -> list[Float[Array, "b h2 w2 c"]]:
    """The factors of m0 .. m3 made of inputs, for every second run of four, with a zero before and after."""
    step = dilation[axis - 1]
    # The middle axis holds positions a dilation apart.
    runs = x.reshape(-1, x.shape[axis] // step, step * math.prod(x.shape[axis + 1 :]))
    runs = jnp.pad(runs, ((0, 0), (1, 1), (0, 0)))
    even, odd = runs[:, ::2], runs[:, 1::2]
    d0, d1, d2, d3 = even[:, :-1], odd[:, :-1], even[:, 1:], odd[:, 1:]
    halved = *x.shape[:axis], x.shape[axis] // 2, *x.shape[axis + 1 :]
    return [factor.reshape(halved) for factor in (d0 - d2, d1 + d2, d2 - d1, d1 - d3)]


def _weights(kernel: Array, axis: int) -> list[Array]:
    """The factors of m0 .. m3 made of weights."""
    g0, g1, g2 = (lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3))
    return [g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2]


def _outputs(
    products: Sequence[Float[Array, "b h2 w2 c"]], axis: int, dilation: Sequence[int]
) -> Float[Array, "b h w c"]:
    """y0 and y1 of every run."""
    shape, step = products[0].shape, dilation[axis - 1]
    m0, m1, m2, m3 = (m.reshape(-1, shape[axis] // step, step * math.prod(shape[axis + 1 :])) for m in products)
    y = jnp.stack([m0 + m1 + m2, m1 - m2 - m3], axis=2)
    return y.reshape(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
