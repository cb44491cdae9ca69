"""Functions of the rows of Z = X W + b, computed a block of rows at a time: the n x n array Z is never stored.

Forward, for the rows R of a block of one image:

    Z_R = X_R W + b        Y_R = f(Z_R, V)

Backward, Z_R is recomputed. With Y'_R (`y_bar` in the code) for the cotangent of Y_R, X' for that of X and so on:

    (Z'_R, V'_R) = the transposed derivative of f at (Z_R, V), applied to Y'_R
    X'_R = Z'_R W^T        W' = sum_R X_R^T Z'_R        b' = sum_R sum_i Z'_i        V' = sum_R V'_R

W and b belong to all images of a batch, or every image has its own. The sums over R then run over the rows of all
images, or of that image.

The function f maps whole rows of Z to results. In training, f computes the contexts (`context_prior`) and the sums of
the affinity loss (`losses.affinity`) together. With P = sigmoid(Z) and A the ideal affinity map, its cotangents are

    Z' = (g V^T + s + [same, i != j] t - [other] q) P (1 - P) + u (P - A)        V' = P^T g

g belongs to the context P V, and s, t, q, u belong to a row's sums of P, of P over the same class, of 1 - P over other
classes, and of the cross entropy. Together they take four matrix products with W and three with V; separately, the
loss takes the four with W again.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jax.export import is_symbolic_dim
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from cpnet_jax.models.forms.linear import linear_call
from cpnet_jax.models.forms.platforms import Size, axes_to_divide
from cpnet_jax.models.forms.products import product

# (logits (b, r, n) of r rows, which rows these are (r,), values, constants) -> arrays (b, r, ...)
RowFunction = Callable[[Float[Array, "b r n"], Int[Array, " r"], PyTree, PyTree], PyTree]


def map_rows(
    function: RowFunction,
    x: Float[Array, "b n c"],
    kernel: Float[Array, "*b c m"],
    bias: Float[Array, "*b m"],
    values: PyTree,
    constants: PyTree,
    *,
    block_rows: int,
    bfloat16: bool = False,
) -> PyTree:
    """Applies a function to all rows of x @ kernel + bias, computed in the dtype of kernel and bias.

    Kernel and bias are shared by all images, (c, m) and (m,), or every image has its own: (b, c, m) and (b, m).

    With a mesh in context (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`), every device computes the rows of its
    own part of the batch, which must be divided over all axes of the mesh. The function is called directly if there is
    no mesh, if a surrounding `jax.shard_map` divides its axes, or if the devices do not divide the batch.
    Differentiable in both modes; forward mode computes Z a second time.

    Args:
      function: must treat every row separately, be finite for any finite logits, and not close over traced arrays.
        Rows from n on are padding.
      values: arrays (b, ...) that the function reads whole, with a gradient.
      constants: arrays (b, ...) that the function reads whole, without a gradient.
      block_rows: largest number of rows of an image in a block. Memory holds a few arrays (block_rows, m) at a time.
      bfloat16: round the operands of the products with X and W, see `products.product`.

    Returns:
      Arrays (b, n, ...), as the function returns them for n rows at once.
    """

    def run(*arrays: PyTree) -> PyTree:
        return _map_rows(function, _Products(block_rows, bfloat16), *_equally_varying(arrays))

    axes = axes_to_divide(x.shape[0])
    if axes:
        run = _per_device(run, axes, shared=kernel.ndim == 2)
    return run(x, kernel, bias, values, constants)


class _Products(NamedTuple):
    """How the products are computed, see `map_rows`."""

    block_rows: int
    bfloat16: bool

    def affine(self, x: Float[Array, "r c"], kernel: Float[Array, "c m"], bias: Float[Array, " m"]) -> Array:
        return self(x.astype(kernel.dtype), kernel) + bias

    def __call__(self, left: Array, right: Array) -> Array:
        return product(left, right, bfloat16=self.bfloat16)


def _rows(
    function: RowFunction, products: _Products, x: Array, kernel: Array, bias: Array, values: PyTree, constants: PyTree
) -> PyTree:
    blocks = _Blocks(x.shape[1], products.block_rows)
    shared, own = _shared_and_own(kernel, bias)

    def map_image(arrays: PyTree) -> PyTree:
        x, own, values, constants = arrays
        kernel, bias = own or shared

        def map_block(start: Array) -> PyTree:
            logits = products.affine(blocks.cut(x, start), kernel, bias)
            return _of_one(function, logits, blocks.rows(start), values, constants)

        return jax.lax.map(map_block, blocks.starts())

    return blocks.join(jax.lax.map(map_image, (blocks.pad(x), own, values, constants)))


_map_rows = jax.custom_jvp(_rows, nondiff_argnums=(0, 1))


@_map_rows.defjvp
def _derivative(
    function: RowFunction, products: _Products, primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]
) -> tuple[PyTree, PyTree]:
    x, kernel, bias, values, constants = primals
    x, values, constants = _image_by_image((x, values, constants))
    primals = x, kernel, bias, values, constants
    forward, backward = (partial(run, function, products) for run in (_forward, _backward))
    return _map_rows(function, products, *primals), linear_call(forward, backward, primals, tangents[:-1])


def _forward(
    function: RowFunction, products: _Products, primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]
) -> PyTree:
    """The tangent of the results."""

    def run(x: Array, kernel: Array, bias: Array, values: PyTree) -> PyTree:
        return _rows(function, products, x, kernel, bias, values, primals[-1])

    return jax.jvp(run, primals[:-1], tangents)[1]


def _backward(
    function: RowFunction, products: _Products, primals: tuple[PyTree, ...], y_bar: PyTree
) -> tuple[PyTree, ...]:
    """The transpose of `_forward`."""
    x, kernel, bias, values, constants = primals
    blocks = _Blocks(x.shape[1], products.block_rows)
    shared, own = _shared_and_own(kernel, bias)

    def add_image(shared_bar: PyTree, arrays: PyTree) -> tuple[PyTree, tuple[Array, PyTree, PyTree]]:
        """Adds an image's part of W' and b' if all images share them; returns the image's X', V', and W' and b' if
        they are its own."""
        x, y_bar, own, given, constants = arrays
        kernel, bias = own or shared
        # Cast to full precision, because their gradient is a sum over the blocks.
        values = jax.tree.map(lambda v: v.astype(jnp.promote_types(v.dtype, kernel.dtype)), given)

        def add_block(sums: PyTree, start: Array) -> tuple[PyTree, Array]:
            """Adds a block's part of W', b' and V'; also returns the block's X'."""
            rows, x_block = blocks.rows(start), blocks.cut(x, start)
            logits = products.affine(x_block, kernel, bias)
            _, transposed = jax.vjp(lambda z, v: _of_one(function, z, rows, v, constants), logits, values)
            z_bar, values_bar = transposed(blocks.cut(y_bar, start))
            kernel_bar = products(x_block.astype(kernel.dtype).T, z_bar)
            sums = jax.tree.map(jnp.add, sums, ((kernel_bar, z_bar.sum(axis=0)), values_bar))
            return sums, products(z_bar, kernel.T).astype(x_block.dtype)

        sums = shared_bar or _zeros(own), _zeros(values)
        (factors_bar, values_bar), x_bar = jax.lax.scan(add_block, sums, blocks.starts())
        values_bar = jax.tree.map(lambda v_bar, v: v_bar.astype(v.dtype), values_bar, given)
        shared_bar, own_bar = (factors_bar, None) if own is None else (None, factors_bar)
        return shared_bar, (x_bar, values_bar, own_bar)

    images = *blocks.pad((x, _image_by_image(y_bar))), own, values, constants
    shared_bar, (x_bar, values_bar, own_bar) = jax.lax.scan(add_image, _zeros(shared), images)
    kernel_bar, bias_bar = shared_bar or own_bar
    return blocks.join(x_bar), kernel_bar, bias_bar, values_bar


def _shared_and_own(kernel: Float[Array, "*b c m"], bias: Float[Array, "*b m"]) -> tuple[PyTree, PyTree]:
    """(kernel, bias) as what all images share, or as what every image has for itself; the other is None."""
    return ((kernel, bias), None) if kernel.ndim == 2 else (None, (kernel, bias))


def _zeros(arrays: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, arrays)


def _of_one(
    function: RowFunction, logits: Float[Array, "r n"], rows: Int[Array, " r"], values: PyTree, constants: PyTree
) -> PyTree:
    """Applies the function, which takes batches, to one image."""
    batches = jax.tree.map(lambda x: x[None], (logits, values, constants))
    return jax.tree.map(lambda y: y[0], function(batches[0], rows, *batches[1:]))


def _image_by_image(arrays: PyTree) -> PyTree:
    """Lays arrays (b, ...) out with each image contiguous in memory, for TPUs.

    There, convolutions return arrays with the images of a batch interleaved, so reading one image takes as long as
    reading all. Used in training only, because a layout constraint cannot be exported.
    """

    def lay_out(arrays: PyTree) -> PyTree:
        return jax.tree.map(lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim)))), arrays)

    return jax.lax.platform_dependent(arrays, tpu=lay_out, default=lambda arrays: arrays)


class _Blocks:
    """Divides n rows into the fewest blocks of equal size, at most `block_rows`; the last is padded with zeros.

    A symbolic n is divided into blocks of `block_rows`.
    """

    def __init__(self, n: Size, block_rows: int) -> None:
        self.n = n
        self.count = -(-n // block_rows)
        # JAX cannot compare a block of symbolic size with n rows.
        self.size = block_rows if is_symbolic_dim(n) else -(-n // self.count)
        self.padding = self.count * self.size - n

    def starts(self) -> Int[Array, " blocks"]:
        return self.size * jnp.arange(self.count)

    def rows(self, start: Int[Array, ""]) -> Int[Array, " r"]:
        return start + jnp.arange(self.size)

    def pad(self, arrays: PyTree) -> PyTree:
        """(b, n, ...) -> (b, blocks * r, ...) of every array."""
        return jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, self.padding)] + [(0, 0)] * (x.ndim - 2)), arrays)

    def cut(self, arrays: PyTree, start: Int[Array, ""]) -> PyTree:
        """(blocks * r, ...) -> (r, ...) of every array: the block at `start`."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, self.size), arrays)

    def join(self, blocks: PyTree) -> PyTree:
        """(b, blocks, r, ...) -> (b, n, ...) of every array."""
        return jax.tree.map(lambda y: y.reshape(y.shape[0], self.count * self.size, *y.shape[3:])[:, : self.n], blocks)


# --- devices ----------------------------------------------------------------------------------------------------------


def _equally_varying(arrays: PyTree) -> PyTree:
    """Declares arrays that are replicated in a surrounding `jax.shard_map` as varying over its devices if others vary.

    The backward pass starts sums from zeros of the kernel; a scan must start from the type that it ends with. The
    gradient of a replicated array is then summed over the devices.
    """

    def axes(x: Array | np.ndarray) -> frozenset[str]:
        return jax.typeof(x).manual_axis_type.varying

    together = frozenset().union(*map(axes, jax.tree.leaves(arrays)))
    return jax.tree.map(lambda x: jax.lax.pcast(x, tuple(sorted(together - axes(x))), to="varying"), arrays)


def _per_device(run: Callable[..., PyTree], axes: tuple[str, ...], *, shared: bool) -> Callable[..., PyTree]:
    """Divides the images over the devices, and runs on each device with the arrays of its images.

    Each device has the whole kernel and bias if the images share them; their gradients are summed over the devices.
    """
    part = PartitionSpec(axes)
    factors = PartitionSpec() if shared else part
    specs = (part, factors, factors, part, part)
    return jax.shard_map(run, in_specs=specs, out_specs=part, axis_names=set(axes))
