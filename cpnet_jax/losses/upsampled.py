"""Pixel-wise cross entropy at full resolution of logits at the network's, a block of rows at a time.

The plain definition, `cross_entropy(models.upsample(logits, size), labels)`, keeps several arrays of the size batch x
height x width x classes for its backward pass. Here none is ever whole, and what the backward pass keeps is the
gradient itself, as small as the logits: it is found in the same pass as the loss, on which it depends only through a
factor.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Values of one image that a block has at full resolution, at most: 32 rows of 512 pixels with 150 classes. Those of a
# few images fit the vector memory of a TPU.
BLOCK = 5 * 2**19
# Rows come in multiples of this, as in a TPU's tiles.
TILE = 8


def upsampled_cross_entropy(
    logits: Float[Array, "b h w k"], labels: Int[Array, "b H W"], *, ignore_label: int = 255, dtype: Any = None
) -> Float[Array, ""]:
    """`cross_entropy` after bilinear upsampling (half-pixel centres) of the logits to the labels' size.

    Has first derivatives, in reverse mode.

    Args:
      logits: unnormalised, of any size.
      labels: as in `cross_entropy`.
      ignore_label: as in `cross_entropy`.
      dtype: of the values at full resolution; that of the logits, float32 at least, unless given. jnp.bfloat16 rounds
        how far a logit is below its cell's largest (relative error 2^-9) and the gradient of a pixel, and takes half
        the memory and less than half the time on TPUs. Sums are of float32 at least in any case.

    Raises:
      ValueError: where logits and labels are not of as many images each.
    """
    if logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels):
        raise ValueError(
            f"logits have shape {logits.shape} and labels {labels.shape}; they must be (batch, h, w, classes) and "
            "(batch, height, width)"
        )
    dtype = jnp.promote_types(logits.dtype, jnp.float32) if dtype is None else dtype
    return _mean_loss(logits, labels, ignore_label, jnp.dtype(dtype))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _mean_loss(logits: Array, labels: Array, ignore_label: int, dtype: Any) -> Array:
    return _in_blocks(logits, labels, ignore_label, dtype, with_gradient=False)[0]


def _forward(logits: Array, labels: Array, ignore_label: int, dtype: Any) -> tuple[Array, Array]:
    return _in_blocks(logits, labels, ignore_label, dtype, with_gradient=True)


def _backward(ignore_label: int, dtype: Any, gradient: Array, cotangent: Array) -> tuple[Array, None]:
    return (cotangent * gradient).astype(gradient.dtype), None


_mean_loss.defvjp(_forward, _backward)


def _in_blocks(
    logits: Float[Array, "b h w k"], labels: Int[Array, "b H W"], ignore_label: int, dtype: Any, with_gradient: bool
) -> tuple[Float[Array, ""], Float[Array, "b h w k"] | None]:
    """The mean loss and its gradient."""
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    # What all classes of a pixel have in common changes no loss: take each cell's largest logit off. A blend of values
    # of at most 0 is at most 0, so exp needs no other shift, nor a pass at full resolution to find one, ...
    z = logits.astype(wide)
    z = z - z.max(axis=-1, keepdims=True)
    # ... unless some exponentials might vanish, and with them all of a pixel: not with logits as networks have them.
    vanishing = z.min() < 0.9 * np.log(jnp.finfo(wide).tiny)
    target = jnp.where(labels == ignore_label, -1, labels.astype(jnp.int32))
    sums = partial(_sums, with_gradient=with_gradient)
    total, gradient = jax.lax.cond(
        vanishing, partial(sums, shifted=True), partial(sums, shifted=False), z.astype(dtype), target
    )
    count = jnp.maximum((target >= 0).sum().astype(wide), 1)
    return total.sum() / count, (gradient / count).astype(logits.dtype) if with_gradient else None


def _sums(
    z: Float[Array, "b h w k"], target: Int[Array, "b H W"], *, shifted: bool, with_gradient: bool
) -> tuple[Float[Array, " b"], Float[Array, "b h w k"] | None]:
    """Each image's sum of losses over the pixels with a label, and the gradient of it.

    The batch stays the leading axis, so that devices which share it have nothing to exchange.
    """
    b, h, w, k = z.shape
    _, height, width = target.shape
    wide = jnp.promote_types(z.dtype, jnp.float32)
    rows = _row_blocks(height, h, at_most=BLOCK // (width * k))
    columns = jnp.asarray(_interpolation(width, w), z.dtype)

    def block(carry: tuple[Array, Array | None], inputs: tuple[Array, Array, Array]) -> tuple[Any, None]:
        total, gradient = carry
        first, weights, target = inputs
        reach = weights.shape[1]
        cells = jax.lax.dynamic_slice_in_dim(z, first, reach, axis=1)
        # The classes come before the rows and columns, so that sums over them add whole tiles.
        full = _product("Rs,bswk->bkRw", weights, cells, wide).astype(z.dtype)
        full = _product("bkRw,Ww->bkRW", full, columns, wide).astype(z.dtype).astype(wide)
        one_hot = jnp.arange(k)[:, None, None] == target[:, None]
        labelled = target >= 0
        log_sum = jax.nn.logsumexp(full, axis=1) if shifted else jnp.log(jnp.exp(full).sum(axis=1))
        total += jnp.where(labelled, log_sum - jnp.where(one_hot, full, 0).sum(axis=1), 0).sum(axis=(1, 2))
        if with_gradient:
            log_sum = jnp.where(labelled, log_sum, jnp.inf)
            error = (jnp.exp(full - log_sum[:, None]) - one_hot).astype(z.dtype)
            error = _product("bkRW,Ww->bkRw", error, columns, wide).astype(z.dtype)
            error = _product("Rs,bkRw->bswk", weights, error, wide)
            error += jax.lax.dynamic_slice_in_dim(gradient, first, reach, axis=1)
            gradient = jax.lax.dynamic_update_slice_in_dim(gradient, error, first, axis=1)
        return (total, gradient), None

    start = jnp.zeros(b, wide), jnp.zeros(z.shape, wide) if with_gradient else None
    inputs = jnp.asarray(rows.first), jnp.asarray(rows.weights, z.dtype), _cut(target, *rows.weights.shape[:2])
    sums, _ = jax.lax.scan(block, start, inputs)
    return sums


def _product(subscripts: str, left: Array, right: Array, dtype: Any) -> Array:
    # TPUs multiply float32 in bfloat16 unless told otherwise. Products of bfloat16 are exact, whatever they are told.
    return jnp.einsum(subscripts, left, right, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype)


class _RowBlocks(NamedTuple):
    """How rows of cells blend into blocks of rows of pixels.

    Row r of block n is weights[n, r] times the cells' rows from first[n] on. Rows below the last have no weight.
    """

    first: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, "n R s"]


def _row_blocks(height: int, cells: int, at_most: int) -> _RowBlocks:
    """Blocks of equally many rows, a multiple of TILE, not more than `at_most` unless that is less than one tile."""
    blocks = -(-height // max(at_most // TILE * TILE, TILE))
    rows = -(-height // (blocks * TILE)) * TILE
    blocks = -(-height // rows)
    weights = np.zeros((blocks * rows, cells))
    weights[:height] = _interpolation(height, cells)
    weights = weights.reshape(blocks, rows, cells)
    used = [np.flatnonzero(block.any(axis=0)) for block in weights]
    reach = max(np.ptp(one) for one in used) + 1
    first = np.array([min(one[0], cells - reach) for one in used], np.int32)
    return _RowBlocks(first, np.stack([block[:, at : at + reach] for at, block in zip(first, weights, strict=True)]))


def _interpolation(size: int, cells: int) -> Float[np.ndarray, "size cells"]:
    """Weights of bilinear interpolation along one axis, with half-pixel centres; the outermost cells go on outwards."""
    places = (np.arange(size) + 0.5) * cells / size - 0.5
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)))
    return weights / weights.sum(axis=1, keepdims=True)


def _cut(target: Int[Array, "b H W"], blocks: int, rows: int) -> Int[Array, "n b R W"]:
    """In blocks of rows; those below the last are not labelled."""
    b, height, width = target.shape
    padded = jnp.pad(target, ((0, 0), (0, blocks * rows - height), (0, 0)), constant_values=-1)
    return padded.reshape(b, blocks, rows, width).swapaxes(0, 1)
