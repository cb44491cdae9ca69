"""Every loss gives the numbers of its definition under every transformation of JAX."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cpnet_jax import losses, models
from cpnet_jax.losses.cross_entropy import labelled

PARTS, BATCH, N, CHANNELS = 2, 2, 10, 3
PART, WHOLE = PartitionSpec("parts"), PartitionSpec()
pytestmark = pytest.mark.usefixtures("quick_compilation")


def dense(arrays, labels):
    features, kernel, bias = arrays
    return losses.affinity_loss(features @ kernel + bias, labels).total


def blocks(arrays, labels):
    return losses.affinity_loss(models.PriorFactors(*arrays, block_rows=4), labels).total


def features_to_pixels(loss, arrays, labels):
    """A loss of pixels, of logits with 10 classes at half the size of the labels."""
    features, kernel, bias = arrays
    logits = (features @ kernel + bias).reshape(-1, 2, 5, N)
    labels = labels.reshape(-1, 2, 5).repeat(2, axis=1).repeat(2, axis=2)
    return loss(logits, labels, ohem=losses.Ohem(0.5, 5))


def full_size(logits, labels, **options):
    return losses.cross_entropy(models.upsample(logits, labels.shape[1:]), labels, **options)


full_pixels = partial(features_to_pixels, full_size)
upsampled_pixels = partial(features_to_pixels, losses.upsampled_cross_entropy)
# Each form with its definition.
FORMS = {"dense": (dense, dense), "blocks": (blocks, dense), "pixels": (upsampled_pixels, full_pixels)}


def make_case(dtype=np.float32):
    """((features of both parts, kernel, bias), labels of both parts)"""
    rng = np.random.default_rng(0)
    shapes = (PARTS, BATCH, N, CHANNELS), (CHANNELS, N), (N,)
    labels = rng.integers(0, 4, (PARTS, BATCH, N))
    labels[0, 1, :3] = 255
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes), jnp.asarray(labels, jnp.int32)


# Every transformation computes the mean of the loss over both parts of the data.


def in_a_loop(loss):
    def mean(arrays, labels):
        features, *shared = arrays
        return sum(loss((features[part], *shared), labels[part]) for part in range(PARTS)) / PARTS

    return mean


def by_map(transform, loss):
    """With `jax.vmap` or `jax.pmap`."""
    return lambda arrays, labels: transform(loss, in_axes=((0, None, None), 0))(arrays, labels).mean()


def by_shard_map(kind, loss):
    """With the default check of what varies over the devices; kernel and bias are replicated."""
    mesh = Mesh(np.array(jax.devices()[:PARTS]), ("parts",), axis_types=(kind,))

    def on_device(arrays, labels):
        features, *shared = arrays
        return jax.lax.pmean(loss((features[0], *shared), labels[0]), "parts")

    specs = (PART, WHOLE, WHOLE), PART

    def mean(arrays, labels):
        if kind == AxisType.Explicit:
            shardings = jax.tree.map(partial(NamedSharding, mesh), specs)
            arrays, labels = jax.tree.map(jax.reshard, (arrays, labels), shardings)
        return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=WHOLE)(arrays, labels)

    return mean


TRANSFORMATIONS = {
    "loop": in_a_loop,
    "checkpoint": lambda loss: in_a_loop(jax.checkpoint(loss)),
    "vmap": partial(by_map, jax.vmap),
    "pmap": partial(by_map, jax.pmap),
    "shard_map, auto axes": partial(by_shard_map, AxisType.Auto),
    "shard_map, explicit axes": partial(by_shard_map, AxisType.Explicit),
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def assert_close(found, expected, tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def value_and_gradients(mean, case):
    return jax.jit(jax.value_and_grad(mean))(*case)


@functools.cache
def expected(definition):
    return value_and_gradients(in_a_loop(definition), make_case())


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_values_and_gradients_are_those_of_the_definition(form, name):
    loss, definition = form
    found = value_and_gradients(TRANSFORMATIONS[name](loss), make_case())
    assert_close(found, expected(definition), 2e-6)


def test_float64_is_computed_in_float64(form):
    loss, definition = form
    with jax.enable_x64(True):
        case = make_case(np.float64)
        found = value_and_gradients(in_a_loop(loss), case)
        assert_close(found, value_and_gradients(in_a_loop(definition), case), 1e-12)


def test_bfloat16_gives_a_float32_loss_and_bfloat16_gradients(form):
    loss, definition = form
    value, gradients = value_and_gradients(in_a_loop(loss), make_case(jnp.bfloat16))
    assert value.dtype == np.float32 and all(gradient.dtype == jnp.bfloat16 for gradient in gradients)
    assert_close(jax.tree.map(np.float32, (value, gradients)), expected(definition), 0.1)


def test_forward_mode_agrees_with_reverse_mode(form):
    """First derivatives by jvp and linearize under vmap, and the product of the Hessian with a vector."""
    mean = by_map(jax.vmap, form[0])
    arrays, labels = make_case()
    direction = jax.tree.map(lambda x: jnp.cos(7 * x), arrays)

    @jax.jit
    def derivatives(arrays):
        def scalar(arrays):
            return mean(arrays, labels)

        gradients, hessian = jax.jvp(jax.grad(scalar), (arrays,), (direction,))
        along = sum(jnp.vdot(g, d) for g, d in zip(gradients, direction, strict=True))
        forward = jax.jvp(scalar, (arrays,), (direction,))[1], jax.linearize(scalar, arrays)[1](direction)
        reverse = jax.grad(lambda arrays: sum(map(jnp.vdot, jax.grad(scalar)(arrays), direction)))(arrays)
        return (forward, hessian), ((along, along), reverse)

    assert_close(*derivatives(arrays), 1e-5)


@pytest.mark.usefixtures("without_shape_checks")
def test_one_image_without_a_batch_axis_is_answered_with_what_to_do():
    (features, kernel, bias), labels = make_case()
    advice = r"prior has shape \(10, 10\) and labels \(10,\).* first axis of 1"
    with pytest.raises(ValueError, match=advice):
        jax.vmap(losses.affinity_loss)(features[0] @ kernel, labels[0])
    with pytest.raises(ValueError, match=advice):
        jax.vmap(lambda x, y: losses.affinity_loss(models.PriorFactors(x, kernel, bias), y))(features[0], labels[0])
    each = jax.vmap(lambda z, y: losses.affinity_loss(z[None], y[None]).total)(features[0] @ kernel, labels[0])
    assert each.shape == (BATCH,)


@pytest.mark.parametrize("ignored", ["class", "mask"])
def test_negative_labels_are_ignored_positions(ignored):
    (features, kernel, bias), labels = make_case()
    logits, labels = features[0] @ kernel + bias, np.array(labels[0])
    wrong = np.where(labels == 255, -1, labels)
    wrong[1, 0] = -7
    run = jax.jit(partial(losses.affinity_loss, ignored=ignored))
    assert run(logits, wrong) == run(logits, labels)
    wrong = wrong.astype(np.int8)  # which has no 255
    np.testing.assert_array_equal(losses.ideal_affinity_map(wrong), losses.ideal_affinity_map(labels))


@pytest.mark.parametrize("pixels", [full_pixels, upsampled_pixels], ids=["full size", "upsampled"])
def test_labels_that_are_no_class_are_ignored_pixels(pixels):
    (features, *shared), labels = make_case()
    arrays, labels = (features[0], *shared), np.array(labels[0])
    wrong = labels.copy()
    wrong[:, 4:9] = -1, -7, 10, 254, 300
    labels[:, 4:9] = 255
    run = jax.jit(pixels)
    assert run(arrays, wrong) == run(arrays, labels)


def test_uint8_labels_are_compared_as_integers():
    """300 classes are not 44, and an ignore label of -1 is not 255."""
    labels = np.array([[[50, 255]]], np.uint8)
    assert labelled(labels, 300, -1).all()
    assert losses.AffinityTargets(jnp.asarray(labels[0]), ignored="mask", ignore_label=-1).valid.all()
