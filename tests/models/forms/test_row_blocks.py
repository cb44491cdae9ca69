"""The context prior in blocks of rows equals the formulas with N x N arrays, on one device and on eight."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from cpnet_jax import losses, models, sharding
from cpnet_jax.models.forms.products import product
from cpnet_jax.models.forms.row_blocks import map_rows

pytestmark = pytest.mark.usefixtures("quick_compilation")
BATCH, N, CHANNELS, ROWS = 8, 37, 6, 8
WEIGHTS = {"unary": 0.7, "precision": 1.3, "recall": -0.9, "specificity": 2.1}
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}


def make_labels():
    """Images with several classes, ignored positions, a class of one pixel, one class only, and no label."""
    labels = np.random.default_rng(0).integers(0, 4, (BATCH, N))
    labels[1, 3:17] = 255
    labels[1, 20] = 77
    labels[2] = 5
    labels[3] = 255
    return labels.astype(np.int32)


def make_arrays(dtype, own=False):
    """(features, kernel, bias, values); kernel and bias are each image's own, or shared by all."""
    rng = np.random.default_rng(1)
    images = (BATCH,) if own else ()
    shapes = (BATCH, N, CHANNELS), (*images, CHANNELS, N), (*images, N), (BATCH, N, 3)
    return tuple(jnp.asarray(rng.normal(size=shape).astype(dtype)) for shape in shapes)


def scalar(arrays, labels, block_rows, together=True, **options):
    """(a combination of contexts and loss terms with different weights, (contexts, terms))"""
    *factors, values = arrays
    prior, targets = models.PriorFactors(*factors, block_rows=block_rows), losses.AffinityTargets(labels, **options)
    if together:
        contexts, sums = prior.contexts_and_row_sums(values, targets)
        prior = prior.replace(known=(targets, sums))
    else:
        contexts = prior.contexts(values)
    terms = losses.affinity_loss(prior, labels, **options)
    weights = np.random.default_rng(2).normal(size=(2, *values.shape)).astype(values.dtype)
    total = sum((weight * context).sum() for weight, context in zip(weights, contexts, strict=True))
    return total + sum(weight * getattr(terms, name) for name, weight in WEIGHTS.items()), (contexts, terms)


def value_and_gradients(*args, **options):
    return jax.value_and_grad(scalar, has_aux=True)(*args, **options)


def assert_trees_close(actual, expected, tolerance):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("dtype", "exclude_diagonal", "ignored"),
    [
        ("float64", True, "class"),
        ("float64", True, "mask"),
        ("float64", False, "mask"),
        ("float32", True, "class"),
    ],
)
def test_blocks_agree_with_the_dense_formulas(dtype, exclude_diagonal, ignored):
    with jax.enable_x64(dtype == "float64"):

        @jax.jit
        def run(arrays, labels):
            options = dict(exclude_diagonal=exclude_diagonal, ignored=ignored)
            return [value_and_gradients(arrays, labels, rows, **options) for rows in (None, ROWS)]

        dense, blocks = run(make_arrays(dtype), make_labels())
        assert_trees_close(blocks, dense, TOLERANCE[dtype])


def test_blocks_agree_with_the_dense_formulas_if_every_image_has_a_kernel():
    with jax.enable_x64(True):
        run = jax.jit(lambda *args: [value_and_gradients(*args, rows) for rows in (None, ROWS)])
        dense, blocks = run(make_arrays("float64", own=True), make_labels())
        assert_trees_close(blocks, dense, TOLERANCE["float64"])


def test_the_gradient_of_a_shared_kernel_is_the_sum_of_those_of_the_images():
    with jax.enable_x64(True):
        features, kernel, bias, values = make_arrays("float64")
        own = tuple(jnp.broadcast_to(x, (BATCH, *x.shape)) for x in (kernel, bias))
        run = jax.jit(value_and_gradients, static_argnums=2)
        value, (*_, kernel_bar, bias_bar, values_bar) = run((features, kernel, bias, values), make_labels(), ROWS)
        found, (*_, kernels_bar, biases_bar, found_bar) = run((features, *own, values), make_labels(), ROWS)
        summed = kernels_bar.sum(axis=0), biases_bar.sum(axis=0)
        assert_trees_close((found, *summed, found_bar), (value, kernel_bar, bias_bar, values_bar), 1e-12)


@pytest.fixture(scope="module")
def one_pass():
    with jax.enable_x64(True):
        compiled = jax.jit(value_and_gradients, static_argnums=2).lower(make_arrays("float64"), make_labels(), ROWS)
        return compiled.compile()


@pytest.mark.parametrize("block_rows", [1, 1000])
def test_the_number_of_rows_in_a_block_changes_nothing(one_pass, block_rows):
    with jax.enable_x64(True):
        arrays, labels = make_arrays("float64"), make_labels()
        found = jax.jit(value_and_gradients, static_argnums=2)(arrays, labels, block_rows)
        assert_trees_close(found, one_pass(arrays, labels), 1e-12)


def test_one_pass_takes_seven_matrix_products_and_two_passes_eleven_with_equal_results(one_pass):
    with jax.enable_x64(True):
        arrays, labels = make_arrays("float64"), make_labels()
        two_passes = jax.jit(value_and_gradients, static_argnums=(2, 3)).lower(arrays, labels, ROWS, False).compile()
        assert_trees_close(two_passes(arrays, labels), one_pass(arrays, labels), 1e-12)
    assert [compiled.as_text().count(" dot(") for compiled in (one_pass, two_passes)] == [7, 11]


def test_bfloat16_activations_are_computed_in_float32():
    features, kernel, bias, values = make_arrays("float32")
    half = features.astype(jnp.bfloat16), kernel, bias, values.astype(jnp.bfloat16)
    whole = half[0].astype(jnp.float32), kernel, bias, half[3].astype(jnp.float32)
    run = jax.jit(scalar, static_argnums=2)
    _, (contexts, terms) = run(half, make_labels(), ROWS)
    _, (expected_contexts, expected_terms) = run(whole, make_labels(), ROWS)
    assert_trees_close(terms, expected_terms, 1e-7)
    assert_trees_close(contexts, [context.astype(jnp.bfloat16) for context in expected_contexts], 0)


# Known sums


def test_known_sums_are_used_only_for_the_same_options():
    *factors, _ = make_arrays("float32")
    labels = make_labels()
    fresh = models.PriorFactors(*factors, block_rows=ROWS)
    targets = losses.AffinityTargets(labels, ignored="class")
    known = fresh.replace(known=(targets, jax.tree.map(jnp.zeros_like, fresh.row_sums(targets))))
    assert losses.affinity_loss(known, labels).unary == 0
    for options in ({"ignored": "mask"}, {"exclude_diagonal": False}, {"ignore_label": 3}):
        assert losses.affinity_loss(known, labels, **options) == losses.affinity_loss(fresh, labels, **options)


# Devices


def collectives(text):
    return {
        name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in ("all-gather", "all-reduce", "all-to-all")
    }


@pytest.mark.parametrize("own", [False, True], ids=["shared kernel", "a kernel for each image"])
def test_eight_devices_compute_the_numbers_of_one_and_gather_nothing(own):
    arrays, labels, mesh = make_arrays("float32", own), make_labels(), sharding.make_mesh()
    expected = jax.jit(value_and_gradients, static_argnums=2)(arrays, labels, ROWS)
    part, whole = sharding.split(mesh), sharding.replicated(mesh)
    factors = part if own else whole
    arrays = jax.device_put(arrays, (part, factors, factors, part))
    run = jax.jit(sharding.in_context(lambda *args: value_and_gradients(*args, ROWS), mesh))
    compiled = run.lower(arrays, jax.device_put(labels, part)).compile()
    assert_trees_close(compiled(arrays, jax.device_put(labels, part)), expected, 2e-6)
    found = collectives(compiled.as_text())
    assert found["all-gather"] == found["all-to-all"] == 0
    assert 1 <= found["all-reduce"] <= 3


def divided(batch, mesh=None):
    """Whether every device computes the rows of its part of the batch, with this mesh in context."""
    features, kernel, bias, _ = make_arrays("float32")

    def run(x):
        return map_rows(lambda z, rows, values, constants: z.sum(-1), x, kernel, bias, None, None, block_rows=ROWS)

    return "shard_map" in str(jax.make_jaxpr(sharding.in_context(run, mesh) if mesh else run)(features[:batch]))


def test_devices_divide_the_rows_only_if_a_mesh_divides_the_batch():
    mesh = sharding.make_mesh()
    assert divided(8, mesh)
    assert not divided(8)
    assert not divided(4, mesh), "four images cannot be divided over eight devices"
    assert not divided(8, sharding.make_mesh(jax.devices()[:1]))


def test_within_a_shard_map_rows_are_those_of_the_device():
    """The mesh has two axes, and the caller divides over one of them."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "other"), axis_types=(AxisType.Auto,) * 2)
    features, kernel, bias, values = make_arrays("float32")

    def contexts(features, values):
        return models.PriorFactors(features, kernel, bias, block_rows=ROWS).contexts(values)

    part = PartitionSpec("data")
    outer = jax.shard_map(contexts, mesh=mesh, in_specs=part, out_specs=part, axis_names={"data"}, check_vma=False)
    assert_trees_close(jax.jit(outer)(features, values), contexts(features, values), 1e-6)


# Operands in bfloat16


def relative_errors(left, right):
    def error(a, b):
        return float(np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b))

    return jax.tree.leaves(jax.tree.map(error, left, right))


def rounded(block_rows, own):
    """A scalar of the contexts, with operands in bfloat16."""

    def run(arrays):
        *factors, values = arrays
        prior = models.PriorFactors(*factors, block_rows=block_rows, bfloat16=True)
        return sum(jnp.square(context).sum() for context in prior.contexts(values))

    return jax.value_and_grad(run)(make_arrays("float32", own))


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_operands_in_bfloat16_change_little_and_the_same_in_blocks_and_at_once(own):
    whole, blocks = rounded(None, own), rounded(ROWS, own)

    def exact(arrays):
        *factors, values = arrays
        contexts = models.PriorFactors(*factors, block_rows=None).contexts(values)
        return sum(jnp.square(context).sum() for context in contexts)

    errors = relative_errors(blocks, jax.value_and_grad(exact)(make_arrays("float32", own)))
    assert 1e-5 < max(errors) < 2e-2
    assert max(relative_errors(blocks, whole)) < 2e-3


def test_a_rounded_product_sums_in_float32_and_rounds_in_its_derivatives_too():
    # 1 + 2^-8 rounds to 1. bfloat16 cannot count to 2000, and 3 (1 + 2^-8) rounds to more than 3.
    left, right = jnp.full((1, 2000), 1.0), jnp.full((2000, 3), 1 + 2**-8)
    y, transposed = jax.vjp(partial(product, bfloat16=True), left, right)
    assert (y == 2000).all()
    of_left, of_right = transposed(jnp.full((1, 3), 1 + 2**-8))
    assert (of_left == 3).all() and (of_right == 1).all() and of_left.dtype == y.dtype == jnp.float32
