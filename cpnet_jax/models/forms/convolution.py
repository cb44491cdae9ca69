"""Convolutions, each in the form that the platform computes fastest.

GPUs get `lax.conv_general_dilated` and its gradients. XLA's compiler for CPUs has weak sides: depthwise convolutions
take it fifty times as long as memory would, the kernels' gradients of 1x1 convolutions five times as long as matrix
products, and it knows no fast algorithm for 3x3 windows. That for TPUs lays a batch's images side by side in the tiles
of a convolution's arrays, which a few do not fill; 1x1 convolutions of these, and all that surrounds them, are better
off as matrix products of positions. See docs/performance.md for what these cost.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cpnet_jax.models.forms import winograd
from cpnet_jax.models.forms.platforms import Form, by_platform, fills_tiles

Convolution = Callable[[Array, Array], Array]


def conv_general_dilated(
    x: Float[Array, "b h w cin"],
    kernel: Float[Array, "kh kw cin/groups cout"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    **options: Any,
) -> Float[Array, "b h2 w2 cout"]:
    """`lax.conv_general_dilated` of NHWC images and HWIO kernels, with the same numbers but for rounding.

    Where a platform has a form of its own it has first derivatives, in reverse mode.
    """
    plain = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        rhs_dilation=rhs_dilation,
        feature_group_count=feature_group_count,
        **options,
    )
    keeps_size = all(
        stride == 1 and size % 2 == 1 and tuple(edges) == (dilation * (size // 2),) * 2
        for stride, size, edges, dilation in zip(window_strides, kernel.shape[:2], padding, rhs_dilation, strict=True)
    )
    if not keeps_size:
        return plain(x, kernel)
    forms = {}
    if kernel.shape[:2] == (1, 1) and feature_group_count == 1 and not fills_tiles(x.shape[0]):
        forms["tpu"] = _POINTWISE
    # The other forms round sums to the dtype that they are given.
    if x.dtype in (jnp.float32, jnp.float64):
        forms |= _for_cpus(x.shape, kernel.shape, rhs_dilation, feature_group_count)
    return (
        by_platform(default=Form(plain, partial(_gradients, plain)), **forms)(x, kernel) if forms else plain(x, kernel)
    )


def _for_cpus(
    images: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], groups: int
) -> dict[Literal["cpu"], Form]:
    """The form for arrays of these shapes, if there is one."""
    if groups == images[-1] == kernel[-1]:
        return {"cpu": Form(partial(_depthwise, dilation), partial(_depthwise_gradients, dilation))}
    if groups == 1 and tuple(kernel[:2]) == (1, 1):
        return {"cpu": _POINTWISE}
    if groups == 1 and winograd.suits(images, kernel, dilation):
        convolve = partial(winograd.convolve, dilation=dilation)
        return {"cpu": Form(convolve, partial(_gradients, convolve))}
    return {}


def _gradients(convolve: Convolution, x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    """A convolution is linear in each of its arguments: its transposes do without its value."""
    (of_x,) = jax.linear_transpose(lambda x: convolve(x, kernel), x)(cotangent)
    (of_kernel,) = jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(cotangent)
    return of_x, of_kernel


def _pointwise(x: Float[Array, "b h w cin"], kernel: Float[Array, "1 1 cin cout"]) -> Float[Array, "b h w cout"]:
    """One matrix product of all positions."""
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


_POINTWISE = Form(_pointwise, partial(_gradients, _pointwise))


def _depthwise(
    dilation: Sequence[int], x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"]
) -> Float[Array, "b h w c"]:
    """The sum over the window of what lies there from each position, times the weight."""
    _, height, width, _ = x.shape
    rows, columns, _, _ = kernel.shape
    down, right = dilation
    above, left = down * (rows // 2), right * (columns // 2)
    padded = jnp.pad(x, ((0, 0), (above, above), (left, left), (0, 0)))
    return sum(
        padded[:, down * i : down * i + height, right * j : right * j + width] * kernel[i, j, 0]
        for i in range(rows)
        for j in range(columns)
    )


def _depthwise_gradients(dilation: Sequence[int], x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    # JAX's transpose is a sum of padded arrays. XLA fuses those of two convolutions in a row into one loop, which
    # computes the inner sum anew for each term of the outer.
    of_x = _depthwise(dilation, cotangent, kernel[::-1, ::-1])
    (of_kernel,) = jax.linear_transpose(partial(_depthwise, dilation, x), kernel)(cotangent)
    return of_x, of_kernel
