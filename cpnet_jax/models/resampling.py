"""Resizing and pooling of feature maps, with torch's conventions.

Both can work on a part of each map, the rectangle where `real` is True. The rest is padding, to which means give no
weight.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def upsample(
    x: Float[Array, "b h w c"], size: Sequence[int], real: Bool[Array, "b H W"] | None = None
) -> Float[Array, "b H W c"]:
    """Bilinear interpolation with half-pixel centres (torch's align_corners=False) to size (H, W), or to the real part
    of it; padding gets the values of the edge."""
    b, _, _, c = x.shape
    if real is None:
        return jax.image.resize(x, (b, *size, c), "bilinear", antialias=False)
    rows, columns = (_hats(axis, m).astype(x.dtype) for axis, m in zip(_real_axes(real), x.shape[1:3], strict=True))
    return _weighted(x, rows, columns)


def adaptive_average_pool(
    x: Float[Array, "b h w c"], size: Sequence[int], real: Bool[Array, "b h w"] | None = None
) -> Float[Array, "b H W c"]:
    """Means over a grid of H x W windows, as torch's adaptive_avg_pool2d, for maps of any size.

    Along an axis of n real positions, window i of m holds positions floor(i n / m) to ceil((i + 1) n / m) - 1. Windows
    overlap if m does not divide n, and repeat positions if m is larger than n.

    Returns:
      The means in float32 or wider, because bfloat16 is too coarse for means of thousands of values.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = map(_whole_axis, x.shape[1:3]) if real is None else _real_axes(real)
    rows, columns = (_windows(axis, m).astype(x.dtype) for axis, m in zip(axes, size, strict=True))
    return _weighted(x, rows, columns)


class _Axis(NamedTuple):
    """Positions along an axis, counted from the first real one, and the number of real ones; the latter as an array
    that broadcasts against (..., windows, positions)."""

    positions: Int[Array | np.ndarray, "*b n"]
    count: Any


def _whole_axis(n: int) -> _Axis:
    return _Axis(np.arange(n), n)


def _real_axes(real: Bool[Array, "b h w"]) -> tuple[_Axis, _Axis]:
    rows, columns = (
        _Axis(jnp.arange(along.shape[1]) - along.argmax(axis=1, keepdims=True), along.sum(axis=1)[:, None, None])
        for along in (real.any(axis=2), real.any(axis=1))
    )
    return rows, columns


def _windows(axis: _Axis, m: int) -> Float[Array | np.ndarray, "*b m n"]:
    """Row i holds the weights of window i, which sum to one."""
    window, position, n = np.arange(m)[:, None], axis.positions[..., None, :], axis.count
    inside = (window * n // m <= position) & (position < -(-(window + 1) * n // m))
    return inside / inside.sum(axis=-1, keepdims=True)


def _hats(axis: _Axis, m: int) -> Float[Array, "b n m"]:
    """Row i holds the weights of the m samples for position i, which sum to one."""
    source = jnp.clip((axis.positions[..., None] + 0.5) * m / axis.count - 0.5, 0, m - 1)
    return jnp.maximum(1 - jnp.abs(source - jnp.arange(m)), 0)


def _weighted(
    x: Float[Array, "b h w c"], rows: Float[Array | np.ndarray, "*b H h"], columns: Float[Array | np.ndarray, "*b W w"]
) -> Float[Array, "b H W c"]:
    """Weighted sums over the rows and then the columns, with the weights of all images or of each."""
    each, high = "b" * (rows.ndim - 2), jax.lax.Precision.HIGHEST  # by default TPUs multiply in bfloat16
    x = jnp.einsum(f"{each}ih,bhwc->biwc", rows, x, precision=high)
    return jnp.einsum(f"{each}jw,biwc->bijc", columns, x, precision=high)
