"""Cross entropy of upsampled logits, summed in a few large operations that a GPU's compiler fuses.

The rows of cells are interpolated first, to arrays (b, H, w, k). Every value at full resolution is then a blend of two
neighbouring cells of a row. XLA's compiler for GPUs makes one kernel of the blend, the exponential and the sum that
they go into, so that values of all pixels and classes stay in registers. The loss sums over classes. The gradient for a
cell sums over the window of pixels that the cell has a part in, at both sides; each value is computed once for each of
its two cells.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cpnet_jax.losses.interpolation import interpolation


def sums(
    z: Float[Array, "b h w k"],
    target: Int[Array, "b H W"],
    weights: Float[Array, "b H W"] | None,
    *,
    shifted: bool,
    with_gradient: bool,
) -> tuple[Float[Array, ""], Float[Array, "b h w k"] | None]:
    """Sum of losses over the pixels with a target, and its gradient.

    With `shifted`, the largest logit of each pixel is subtracted before exponentials.
    """
    (_, height, width), (_, h, w, _) = target.shape, z.shape
    rows = _rows(z, height)
    log_sum, own = _log_sum_and_own(_columns(rows, width), target, shifted)
    counted = target >= 0
    losses = log_sum - own if weights is None else weights * (log_sum - own)
    total = jnp.where(counted, losses, 0).sum()
    if not with_gradient:
        return total, None
    of_rows = _gradient_of_rows(rows, target, jnp.where(counted, log_sum, jnp.inf), weights, _windows(width, w))
    return total, _gradient_of_cells(of_rows.astype(z.dtype), _windows(height, h), log_sum.dtype)


def each(z: Float[Array, "b h w k"], target: Int[Array, "b H W"], *, shifted: bool) -> Float[Array, "b H W"]:
    """Loss of each pixel, 0 without a target."""
    _, height, width = target.shape
    log_sum, own = _log_sum_and_own(_columns(_rows(z, height), width), target, shifted)
    return jnp.where(target >= 0, log_sum - own, 0)


def _rows(z: Float[Array, "b h w k"], height: int) -> Float[Array, "b H w k"]:
    """Interpolates between rows of cells, and rounds to the dtype of z."""
    return _interpolate(z, height, axis=1).astype(z.dtype)


def _columns(rows: Float[Array, "b H w k"], width: int) -> Float[Array, "b H W k"]:
    """Interpolates between columns of cells, in float32 or wider."""
    return _interpolate(rows, width, axis=2)


def _interpolate(x: Array, size: int, axis: int) -> Array:
    """Interpolates along an axis, in float32 or wider."""
    cells = x.shape[axis]
    matrix = interpolation(size, cells)
    low = np.minimum(np.argmax(matrix > 0, axis=1), max(cells - 2, 0))
    high = np.minimum(low + 1, cells - 1)
    pixels, beside = np.arange(size), tuple(other for other in range(x.ndim) if other != axis)
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def part(places: np.ndarray, share: np.ndarray) -> Array:
        values = jnp.take(x, places, axis=axis, mode="clip").astype(wide)
        return values * jnp.asarray(np.expand_dims(share, beside), wide)

    high_share = np.where(high > low, matrix[pixels, high], 0)
    return part(low, matrix[pixels, low]) + part(high, high_share)


def _log_sum_and_own(
    full: Float[Array, "b H W k"], target: Int[Array, "b H W"], shifted: bool
) -> tuple[Float[Array, "b H W"], Float[Array, "b H W"]]:
    """(log of the sum of exponentials, the target's logit) of each pixel."""
    own = jnp.where(_one_hot(target, full.shape[-1]), full, 0).sum(axis=-1)
    return jax.nn.logsumexp(full, axis=-1) if shifted else jnp.log(jnp.exp(full).sum(axis=-1)), own


def _gradient_of_rows(
    rows: Float[Array, "b H w k"],
    target: Int[Array, "b H W"],
    log_sum: Float[Array, "b H W"],
    weights: Float[Array, "b H W"] | None,
    windows: "_Windows",
) -> Float[Array, "b H w k"]:
    """Gradient of the sum of losses for the interpolated rows of cells, in the dtype of `log_sum`.

    Args:
      log_sum: infinite for pixels without a target.
    """
    inside = windows.pixels
    error = jnp.exp(windows.blend(rows.astype(log_sum.dtype)) - log_sum[:, :, inside, None])
    error -= _one_hot(target[:, :, inside], rows.shape[-1])
    parts = jnp.asarray(windows.parts, log_sum.dtype)
    parts = parts if weights is None else parts * weights[:, :, inside]
    return (parts[..., None] * error).sum(axis=3)


def _gradient_of_cells(of_rows: Float[Array, "b H w k"], windows: "_Windows", dtype: Any) -> Float[Array, "b h w k"]:
    """Gradient for the cells from that for the interpolated rows of cells.

    Not a matrix product: its arrays would be transposed, and XLA's Triton compiler fails at some of their shapes.
    """
    parts = jnp.asarray(windows.parts, dtype)[:, :, None, None]
    return (parts * of_rows[:, windows.pixels].astype(dtype)).sum(axis=2)


def _one_hot(target: Int[Array, "*pixels"], classes: int) -> Array:
    """Whether a class is the target; all False without a target."""
    return target[..., None] == jnp.arange(classes)


class _Windows(NamedTuple):
    """For each of w cells, the pixels of a row that it has a part in: a window of t pixels.

    Attributes:
      pixels: their numbers. A window with fewer pixels repeats some, with a part of 0.
      parts: the cell's part in each of them.
      blends: parts of the cell before, of the cell itself and of the cell behind.
    """

    pixels: Int[np.ndarray, "w t"]
    parts: Float[np.ndarray, "w t"]
    blends: Float[np.ndarray, "3 w t"]

    def blend(self, rows: Float[Array, "b H w k"]) -> Float[Array, "b H w t k"]:
        """The interpolated values of the pixels in each window."""
        padded = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)))
        cells = padded[:, :, :-2], rows, padded[:, :, 2:]
        before, itself, behind = (
            cell[:, :, :, None] * jnp.asarray(parts, rows.dtype)[..., None]
            for cell, parts in zip(cells, self.blends, strict=True)
        )
        return before + itself + behind


def _windows(width: int, cells: int) -> _Windows:
    """The windows of a row of cells in a row of `width` pixels."""
    matrix = interpolation(width, cells)
    of_cells = [np.flatnonzero(column) for column in matrix.T]
    longest = max(1, *map(len, of_cells))
    pixels = np.stack([np.resize(pixels, longest) if len(pixels) else np.zeros(longest, int) for pixels in of_cells])
    real = np.arange(longest) < np.array([len(pixels) for pixels in of_cells])[:, None]
    padded = np.pad(matrix, ((0, 0), (1, 1)))
    itself = np.arange(cells)[:, None] + 1
    before, parts, behind = (padded[pixels, itself + step] for step in (-1, 0, 1))
    return _Windows(pixels, np.where(real, parts, 0), np.stack([before, parts, behind]))
