"""Resizing and pooling of feature maps, with torch's conventions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def upsample(x: Float[Array, "b h w c"], size: Sequence[int]) -> Float[Array, "b H W c"]:
    """Bilinear interpolation with half-pixel centres (torch's align_corners=False) to size (H, W)."""
    b, _, _, c = x.shape
    return jax.image.resize(x, (b, *size, c), "bilinear", antialias=False)


def adaptive_average_pool(x: Float[Array, "b h w c"], size: Sequence[int]) -> Float[Array, "b H W c"]:
    """Means over a grid of H x W windows, as torch's adaptive_avg_pool2d, for maps of any size.

    Along an axis of n positions, window i of m holds positions floor(i n / m) to ceil((i + 1) n / m) - 1. Windows
    overlap if m does not divide n, and repeat positions if m is larger than n.

    Returns:
      The means in float32 or wider, because bfloat16 is too coarse for means of thousands of values.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rows, columns = (_windows(n, m).astype(x.dtype) for n, m in zip(x.shape[1:3], size, strict=True))
    high = jax.lax.Precision.HIGHEST  # by default TPUs multiply in bfloat16
    x = jnp.einsum("ih,bhwc->biwc", rows, x, precision=high)
    return jnp.einsum("jw,biwc->bijc", columns, x, precision=high)


def _windows(n: int, m: int) -> Float[np.ndarray, "m n"]:
    """Row i holds the weights of window i, which sum to one."""
    window, position = np.arange(m)[:, None], np.arange(n)
    inside = (window * n // m <= position) & (position < -(-(window + 1) * n // m))
    return inside / inside.sum(axis=1, keepdims=True)
