"""Cross entropy of upsampled logits, summed a block of rows at a time: no block is larger than a TPU's fast memory."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cpnet_jax.losses.interpolation import interpolation

# Largest number of values in a block of one image at full resolution, about 32 rows of 512 pixels with 150 classes. The
# blocks of a few images fit the vector memory of a TPU.
BLOCK = 5 * 2**19
# A block's rows are a multiple of this, the number of rows in a TPU's tile.
TILE = 8


def sums(
    z: Float[Array, "b h w k"],
    target: Int[Array, "b H W"],
    weights: Float[Array, "b H W"] | None,
    *,
    shifted: bool,
    with_gradient: bool,
) -> tuple[Float[Array, ""], Float[Array, "b h w k"] | None]:
    """Sum of losses over the pixels with a target, and its gradient.

    The batch stays the leading axis, so devices that share a batch exchange nothing.
    """
    grid = _grid(z.shape, target.shape)
    wide = jnp.promote_types(z.dtype, jnp.float32)
    columns = jnp.asarray(grid.columns, z.dtype)

    def block(carry: tuple[Array, Array | None], inputs: tuple[Array, Array, Array, Array | None]) -> tuple[Any, None]:
        total, gradient = carry
        first, rows, target, weights = inputs
        pixels = _pixels(z, first, rows, columns, target, shifted)
        losses = pixels.losses if weights is None else weights * pixels.losses
        total += jnp.where(pixels.counted, losses, 0).sum(axis=(1, 2))
        if gradient is not None:
            log_sum = jnp.where(pixels.counted, pixels.log_sum, jnp.inf)
            error = jnp.exp(pixels.logits - log_sum[:, None]) - pixels.one_hot
            error = (error if weights is None else weights[:, None] * error).astype(z.dtype)
            error = _product("bkRW,Ww->bkRw", error, columns, wide).astype(z.dtype)
            error = _product("Rs,bkRw->bswk", rows, error, wide)
            error += jax.lax.dynamic_slice_in_dim(gradient, first, rows.shape[1], axis=1)
            gradient = jax.lax.dynamic_update_slice_in_dim(gradient, error, first, axis=1)
        return (total, gradient), None

    start = jnp.zeros_like(z[:, 0, 0, 0], wide), jnp.zeros_like(z, wide) if with_gradient else None
    cut = partial(_cut, blocks=len(grid.first), rows=grid.rows.shape[1])
    weights = None if weights is None else cut(weights)
    inputs = jnp.asarray(grid.first), jnp.asarray(grid.rows, z.dtype), cut(target), weights
    (total, gradient), _ = jax.lax.scan(block, start, inputs)
    return total.sum(), gradient


def each(z: Float[Array, "b h w k"], target: Int[Array, "b H W"], *, shifted: bool) -> Float[Array, "b H W"]:
    """Loss of each pixel, 0 without a target, computed in blocks of rows."""
    grid = _grid(z.shape, target.shape)
    columns = jnp.asarray(grid.columns, z.dtype)

    def block(_: None, inputs: tuple[Array, ...]) -> tuple[None, Array]:
        first, rows, target = inputs
        pixels = _pixels(z, first, rows, columns, target, shifted)
        return None, jnp.where(pixels.counted, pixels.losses, 0)

    cut = _cut(target, blocks=len(grid.first), rows=grid.rows.shape[1])
    _, losses = jax.lax.scan(block, None, (jnp.asarray(grid.first), jnp.asarray(grid.rows, z.dtype), cut))
    b, height, width = target.shape
    return losses.swapaxes(0, 1).reshape(b, -1, width)[:, :height]


class _Pixels(NamedTuple):
    """A block at full resolution, in float32 or wider.

    Classes come before rows and columns, so that sums over classes add whole tiles.
    """

    logits: Float[Array, "b k R W"]
    one_hot: Bool[Array, "b k R W"]
    counted: Bool[Array, "b R W"]
    log_sum: Float[Array, "b R W"]

    @property
    def losses(self) -> Float[Array, "b R W"]:
        """Loss of each pixel; an arbitrary number for pixels that do not count."""
        return self.log_sum - jnp.where(self.one_hot, self.logits, 0).sum(axis=1)


def _pixels(
    z: Float[Array, "b h w k"],
    first: Int[Array, ""],
    rows: Float[Array, "R s"],
    columns: Float[Array, "W w"],
    target: Int[Array, "b R W"],
    shifted: bool,
) -> _Pixels:
    """Interpolates the block whose rows lie between the cells' rows from `first` on."""
    wide = jnp.promote_types(z.dtype, jnp.float32)
    cells = jax.lax.dynamic_slice_in_dim(z, first, rows.shape[1], axis=1)
    full = _product("Rs,bswk->bkRw", rows, cells, wide).astype(z.dtype)
    full = _product("bkRw,Ww->bkRW", full, columns, wide).astype(z.dtype).astype(wide)
    one_hot = jnp.arange(z.shape[-1])[:, None, None] == target[:, None]
    log_sum = jax.nn.logsumexp(full, axis=1) if shifted else jnp.log(jnp.exp(full).sum(axis=1))
    return _Pixels(full, one_hot, target >= 0, log_sum)


def _product(subscripts: str, left: Array, right: Array, dtype: Any) -> Array:
    # By default TPUs multiply float32 in bfloat16. Products of bfloat16 are exact with any setting.
    return jnp.einsum(subscripts, left, right, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype)


class _Grid(NamedTuple):
    """Weights of the interpolation from cells to pixels, in blocks of rows.

    Row r of block n is rows[n, r] times the cells' rows from first[n] on. Padding rows have zero weights. All blocks
    have the same weights of columns.
    """

    first: Int[np.ndarray, " n"]
    rows: Float[np.ndarray, "n R s"]
    columns: Float[np.ndarray, "W w"]


def _grid(cells: Sequence[int], pixels: Sequence[int]) -> _Grid:
    """The grid for logits (b, h, w, k) and labels (b, H, W)."""
    (_, h, w, k), (_, height, width) = cells, pixels
    return _Grid(*_row_blocks(height, h, at_most=BLOCK // (width * k)), interpolation(width, w))


def _row_blocks(height: int, cells: int, at_most: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n R s"]]:
    """Divides rows into blocks of equal height: a multiple of TILE, at most `at_most` but at least TILE."""
    blocks = -(-height // max(at_most // TILE * TILE, TILE))
    rows = -(-height // (blocks * TILE)) * TILE
    blocks = -(-height // rows)
    weights = np.zeros((blocks * rows, cells))
    weights[:height] = interpolation(height, cells)
    weights = weights.reshape(blocks, rows, cells)
    used = [np.flatnonzero(block.any(axis=0)) for block in weights]
    reach = max(np.ptp(one) for one in used) + 1
    first = np.array([min(one[0], cells - reach) for one in used], np.int32)
    return first, np.stack([block[:, at : at + reach] for at, block in zip(first, weights, strict=True)])


def _cut(pixels: Array, blocks: int, rows: int) -> Array:
    """(b, H, W) -> (n, b, R, W): n blocks of rows, padded with -1, which means no target."""
    b, height, width = pixels.shape
    padded = jnp.pad(pixels, ((0, 0), (0, blocks * rows - height), (0, 0)), constant_values=-1)
    return padded.reshape(b, blocks, rows, width).swapaxes(0, 1)
