"""Functions of the rows of Z = X W + b, a block of rows of an image at a time: the n x n array Z is never stored.

Forward, for the rows R of a block:

    Z_R = X_R W + b        Y_R = f(Z_R, V)

Backward, Z_R computed again, with the cotangents Y'_R of Y_R (and X', W', ... those of X, W, ...):

    (Z'_R, V'_R) = the transposed derivative of f at (Z_R, V), applied to Y'_R
    X'_R = Z'_R W^T        W' = sum_R X_R^T Z'_R        b' = sum_R sum_i Z'_i        V' = sum_R V'_R

f works on whole rows of Z and decides what is made of them. That of the context prior (`context_prior`) and that of the
affinity loss (`losses.affinity`) together, with P = sigmoid(Z), A the ideal affinity map, g the cotangents of the
context P V and s, t, q, u those of the rows' sums of P, of P over the same class, of 1 - P over the other classes and
of the cross entropy:

    Z' = (g V^T + s + [same, i != j] t - [other] q) P (1 - P) + u (P - A)        V' = P^T g

Seven matrix products of n x n x c in all, where each of the two alone takes seven and four.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from cpnet_jax.models.forms.platforms import axes_to_divide

# (logits (b, r, n) of r rows, which rows these are (r,), values, constants) -> arrays (b, r, ...)
RowFunction = Callable[[Float[Array, "b r n"], Int[Array, " r"], PyTree, PyTree], PyTree]


def map_rows(
    function: RowFunction,
    x: Float[Array, "b n c"],
    kernel: Float[Array, "c m"],
    bias: Float[Array, " m"],
    values: PyTree,
    constants: PyTree,
    *,
    block_rows: int,
) -> PyTree:
    """The function of all rows of x @ kernel + bias, in the dtype of the latter two; differentiable in reverse mode.

    With a mesh in context (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`) every device works through the rows of
    its own part of the batch, which is taken to be divided over all axes of the mesh. Without one, on axes that a
    surrounding `jax.shard_map` already divides, and for a batch that the devices do not divide, it is called directly.

    Args:
      function: of the rows it is given and of nothing else: it must not mix them, be finite for any finite logits,
        and not close over traced arrays. Rows from n on are padding.
      values: arrays (b, ...) that the function reads whole, and that have a gradient.
      constants: arrays (b, ...) that the function reads whole, and that have none.
      block_rows: most rows of an image in a block. What is stored at a time is a few arrays (block_rows, m).

    Returns:
      Arrays (b, n, ...), as the function gives them for n rows at once.
    """
    run = partial(_map_rows, function, block_rows)
    axes = axes_to_divide(x.shape[0])
    if axes:
        run = _per_device(run, axes)
    return run(x, kernel, bias, values, constants)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _map_rows(
    function: RowFunction, block_rows: int, x: Array, kernel: Array, bias: Array, values: PyTree, constants: PyTree
) -> PyTree:
    blocks = _Blocks(x.shape[1], block_rows)

    def image(arrays: PyTree) -> PyTree:
        x, values, constants = arrays

        def block(start: Array) -> PyTree:
            logits = _affine(blocks.cut(x, start), kernel, bias)
            return _of_one(function, logits, blocks.rows(start), values, constants)

        return jax.lax.map(block, blocks.starts())

    return blocks.join(jax.lax.map(image, (blocks.pad(x), values, constants)))


def _forward(
    function: RowFunction, block_rows: int, x: Array, kernel: Array, bias: Array, values: PyTree, constants: PyTree
) -> tuple[PyTree, Any]:
    x, values, constants = _image_by_image((x, values, constants))
    y = _map_rows(function, block_rows, x, kernel, bias, values, constants)
    return y, (x, kernel, bias, values, constants)


def _backward(function: RowFunction, block_rows: int, saved: Any, y_bar: PyTree) -> tuple[PyTree, ...]:
    x, kernel, bias, values, constants = saved
    blocks = _Blocks(x.shape[1], block_rows)

    def image(shared_bar: PyTree, arrays: PyTree) -> tuple[PyTree, tuple[Array, PyTree]]:
        x, y_bar, given, constants = arrays
        # Their gradient is a sum over the blocks.
        values = jax.tree.map(lambda v: v.astype(jnp.promote_types(v.dtype, kernel.dtype)), given)

        def block(sums: PyTree, start: Array) -> tuple[PyTree, Array]:
            rows, x_block = blocks.rows(start), blocks.cut(x, start)
            logits = _affine(x_block, kernel, bias)
            _, transposed = jax.vjp(lambda z, v: _of_one(function, z, rows, v, constants), logits, values)
            z_bar, values_bar = transposed(blocks.cut(y_bar, start))
            kernel_bar = x_block.astype(kernel.dtype).T @ z_bar
            sums = jax.tree.map(jnp.add, sums, ((kernel_bar, z_bar.sum(axis=0)), values_bar))
            return sums, (z_bar @ kernel.T).astype(x_block.dtype)

        sums = shared_bar, jax.tree.map(jnp.zeros_like, values)
        (shared_bar, values_bar), x_bar = jax.lax.scan(block, sums, blocks.starts())
        return shared_bar, (x_bar, jax.tree.map(lambda v_bar, v: v_bar.astype(v.dtype), values_bar, given))

    zeros = jax.tree.map(jnp.zeros_like, (kernel, bias))
    images = *blocks.pad((x, _image_by_image(y_bar))), values, constants
    (kernel_bar, bias_bar), (x_bar, values_bar) = jax.lax.scan(image, zeros, images)
    return blocks.join(x_bar), kernel_bar, bias_bar, values_bar, None


_map_rows.defvjp(_forward, _backward)


def _of_one(
    function: RowFunction, logits: Float[Array, "r n"], rows: Int[Array, " r"], values: PyTree, constants: PyTree
) -> PyTree:
    """The function, which takes batches, of one image."""
    batches = jax.tree.map(lambda x: x[None], (logits, values, constants))
    return jax.tree.map(lambda y: y[0], function(batches[0], rows, *batches[1:]))


def _affine(x: Float[Array, "r c"], kernel: Float[Array, "c m"], bias: Float[Array, " m"]) -> Float[Array, "r m"]:
    return x.astype(kernel.dtype) @ kernel + bias


def _image_by_image(arrays: PyTree) -> PyTree:
    """The arrays (b, ...), laid out so. TPUs would keep what comes from convolutions as it lies there, row by row of a
    tile an image, and take as long to pick out one image as all. In training only: it cannot be exported."""

    def lay_out(arrays: PyTree) -> PyTree:
        return jax.tree.map(lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim)))), arrays)

    return jax.lax.platform_dependent(arrays, tpu=lay_out, default=lambda arrays: arrays)


class _Blocks:
    """n rows in as few blocks as hold at most `block_rows` each, of one size; the last is filled up with zeros."""

    def __init__(self, n: int, block_rows: int) -> None:
        self.n = n
        self.count = -(-n // block_rows)
        self.size = -(-n // self.count)
        self.padding = self.count * self.size - n

    def starts(self) -> Int[Array, " blocks"]:
        return self.size * jnp.arange(self.count)

    def rows(self, start: Int[Array, ""]) -> Int[Array, " r"]:
        return start + jnp.arange(self.size)

    def pad(self, arrays: PyTree) -> PyTree:
        """(b, n, ...) -> (b, blocks * r, ...) of every array."""
        return jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, self.padding)] + [(0, 0)] * (x.ndim - 2)), arrays)

    def cut(self, arrays: PyTree, start: Int[Array, ""]) -> PyTree:
        """(blocks * r, ...) -> (r, ...) of every array: one block."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, self.size), arrays)

    def join(self, blocks: PyTree) -> PyTree:
        """(b, blocks, r, ...) -> (b, n, ...) of every array."""
        return jax.tree.map(lambda y: y.reshape(y.shape[0], self.count * self.size, *y.shape[3:])[:, : self.n], blocks)


# --- devices ----------------------------------------------------------------------------------------------------------


def _per_device(run: Callable[..., PyTree], axes: tuple[str, ...]) -> Callable[..., PyTree]:
    """x, values and constants divided along their first axis over the axes of the mesh, kernel and bias whole; the
    gradients of these two are summed over the devices."""
    whole, part = PartitionSpec(), PartitionSpec(axes)
    specs = (part, whole, whole, part, part)
    # Unchecked: a scan's carry that starts from zeros would have to be declared as differing from device to device.
    return jax.shard_map(run, in_specs=specs, out_specs=part, axis_names=set(axes), check_vma=False)
