"""Convolutions, each in the form that the platform computes fastest.

GPUs get `lax.conv_general_dilated` and its gradients.

On CPUs, XLA is slow at three things: depthwise convolutions, 50 times slower than reading memory; kernel gradients of
1x1 convolutions, 5 times slower than a matrix product; and 3x3 kernels, for which it has no fast algorithm.

On TPUs, XLA keeps the images of a batch side by side in a tile. Few images leave tiles partly empty. Then 1x1
convolutions, and the elementwise operations around them, are faster as matrix products of all positions.

docs/performance.md has the measurements.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cpnet_jax.models.forms import winograd
from cpnet_jax.models.forms.platforms import Form, Size, by_platform, fills_tiles

Convolution = Callable[[Array, Array], Array]


def conv_general_dilated(
    x: Float[Array, "b h w cin"],
    kernel: Float[Array, "kh kw cin2 cout"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    **options: Any,
) -> Float[Array, "b h2 w2 cout"]:
    """`lax.conv_general_dilated` of NHWC images and HWIO kernels; equal results except for rounding.

    Convolutions with a form for some platform have first derivatives in reverse mode only.
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
    # Not bfloat16: the forms for CPUs round sums to the dtype of x.
    if x.dtype in (jnp.float32, jnp.float64):
        forms |= _for_cpus(x.shape, kernel.shape, rhs_dilation, feature_group_count)
    return by_platform(Form(plain, partial(_gradients, plain)), forms, x, kernel) if forms else plain(x, kernel)


def _for_cpus(
    images: tuple[Size, ...], kernel: tuple[int, ...], dilation: Sequence[int], groups: int
) -> dict[Literal["cpu"], Form]:
    """The form for CPUs of a convolution of these shapes, if it has one."""
    if groups == images[-1] == kernel[-1]:
        return {"cpu": Form(partial(_depthwise, dilation), partial(_depthwise_gradients, dilation))}
    if groups == 1 and tuple(kernel[:2]) == (1, 1):
        return {"cpu": _POINTWISE}
    if groups == 1 and winograd.suits(images, kernel, dilation):
        convolve = partial(winograd.convolve, dilation=dilation)
        return {"cpu": Form(convolve, partial(_gradients, partial(convolve, columns_first=True)))}
    return {}


def _gradients(convolve: Convolution, x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    """Gradients by transposition; a convolution is linear in each argument, so its value is not needed."""
    (of_x,) = jax.linear_transpose(lambda x: convolve(x, kernel), x)(cotangent)
    (of_kernel,) = jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(cotangent)
    return of_x, of_kernel


def _pointwise(x: Float[Array, "b h w cin"], kernel: Float[Array, "1 1 cin cout"]) -> Float[Array, "b h w cout"]:
    """A 1x1 convolution as one matrix product of all positions."""
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


_POINTWISE = Form(_pointwise, partial(_gradients, _pointwise))


def _depthwise(
    dilation: Sequence[int], x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"]
) -> Float[Array, "b h w c"]:
    """A depthwise convolution as a sum of shifted images, each times a weight of the window."""
    _, height, width, _ = x.shape
    rows, columns, _, _ = kernel.shape
    down, right = dilation
    above, left = down * (rows // 2), right * (columns // 2)
    padded = jnp.pad(x, ((0, 0), (above, above), (left, left), (0, 0)))
    terms = [
        padded[:, down * i : down * i + height, right * j : right * j + width] * kernel[i, j, 0]
        for i in range(rows)
        for j in range(columns)
    ]
    return sum(terms[1:], terms[0])


def _depthwise_gradients(dilation: Sequence[int], x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    # JAX's transpose is a sum of padded arrays. XLA fuses the sums of two convolutions in a row into one loop, which
    # recomputes the inner sum for every term of the outer.
    of_x = _depthwise(dilation, cotangent, kernel[::-1, ::-1])
    (of_kernel,) = jax.linear_transpose(partial(_depthwise, dilation, x), kernel)(cotangent)
    return of_x, of_kernel
