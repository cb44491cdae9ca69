"""BatchNorm folded into its 1x1 convolution equals BatchNorm after it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from cpnet_jax import sharding
from cpnet_jax.models import Forms, ResNet, resnet
from cpnet_jax.models.forms import folded_norm
from cpnet_jax.models.forms.folded_norm import FoldedConvBN
from cpnet_jax.models.layers import ConvBN
from cpnet_jax.plan.hlo import Program

CHANNELS, FEATURES = 5, 12
LAYERS = {"plain": ConvBN(FEATURES, (1, 1), relu=False), "folded": FoldedConvBN(FEATURES)}


def images_of(batch=8):
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, 3, 4, CHANNELS)) + 2)


def variables_of(model, x):
    """Random variables, in float64 if the images are."""
    variables = random_weights.draw(jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False)))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.promote_types(x.dtype, jnp.float32)), variables)


def run(model, variables, x, train):
    """(values, statistics), gradients of the parameters and of x"""

    def loss(params, x):
        y, updated = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, x, train=train, mutable=["batch_stats"]
        )
        leaves = jax.tree.leaves(y)
        weighted = [(leaf * jnp.sin(jnp.arange(leaf.size).reshape(leaf.shape))).sum() for leaf in leaves]
        return sum(weighted), (y, updated)

    gradients, aux = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)
    return aux, gradients


def assert_equal(found, expected, tolerance):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("train", [True, False])
def test_values_gradients_and_statistics_equal_those_of_convolution_then_batch_norm(train):
    with jax.enable_x64(True):
        x = images_of()
        variables = variables_of(LAYERS["plain"], x)
        plain, ours = (run(model, variables, x, train) for model in LAYERS.values())
        assert_equal(ours, plain, 1e-12)


def is_folded(model, x):
    """Whether the model calls a FoldedConvBN."""
    kinds = set()

    def note(call, args, kwargs, context):
        kinds.add(type(context.module))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    return FoldedConvBN in kinds


def test_a_backbone_of_bottlenecks_is_the_same_network(monkeypatch):
    monkeypatch.setattr(resnet, "STAGE_SIZES", {50: (2, 1, 0, 0)})
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 16, 24, 3)))
        plain, ours = (ResNet(50, forms=Forms(folded_norm=folded)) for folded in (False, True))
        assert [is_folded(ours, images) for images in (x, x[:2])] == [True, False]
        variables = variables_of(plain, x)
        assert jax.tree.map(jnp.shape, variables_of(ours, x)) == jax.tree.map(jnp.shape, variables)
        assert_equal(*(jax.jit(run, static_argnums=(0, 3))(model, variables, x, True) for model in (ours, plain)), 1e-9)


def test_both_start_from_the_same_parameters():
    x = jnp.zeros((1, 3, 4, CHANNELS))
    plain, ours = (model.init(jax.random.key(0), x, train=True) for model in LAYERS.values())
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


@pytest.mark.parametrize("mean", [0, 1, 10])
def test_moments_in_bfloat16_lose_less_than_rounding_to_bfloat16_does(mean):
    """Against float64, with a mean of this many standard deviations."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 32, 32, 64)) + mean, jnp.bfloat16)
    kernel = rng.normal(size=(64, 16)).astype(np.float32)
    z = np.asarray(x, np.float64) @ kernel
    found = folded_norm.product_moments(x, jnp.asarray(kernel))
    axes = (0, 1, 2)
    assert found[0].dtype == found[1].dtype == jnp.float32
    assert (np.abs(found[0] - z.mean(axes)) < 1e-3 * z.std(axes)).all()
    np.testing.assert_allclose(found[1], z.var(axes), rtol=2**-9)


def test_a_variance_is_never_negative():
    """All channels are multiples of one, and the kernel cancels them: the true variance is 0."""
    rng = np.random.default_rng(0)
    multiples = 2.0 ** np.arange(CHANNELS)
    x = jnp.asarray(rng.normal(size=(8, 4, 4, 1)) + 2, jnp.bfloat16) * jnp.asarray(multiples, jnp.bfloat16)
    kernel = rng.normal(size=(CHANNELS, 400))
    kernel -= np.outer(multiples, multiples @ kernel) / (multiples @ multiples)
    assert (folded_norm.product_moments(x, jnp.asarray(kernel, jnp.float32))[1] >= 0).all()


@pytest.mark.parametrize("form", [folded_norm._gram_by_product, folded_norm._gram_by_convolution])
def test_both_forms_of_the_gram_matrix_sum_in_float32_and_have_its_gradient(form):
    x = jnp.asarray(images_of(), jnp.bfloat16)
    exact = np.einsum("bhwc,bhwd->cd", *[np.asarray(x, np.float64)] * 2)
    found, transpose = jax.vjp(form, x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=exact.shape), jnp.float32)
    gradient = np.asarray(x, np.float64) @ (cotangent + cotangent.T)
    for (ours,) in (folded_norm._gram_gradient(x, cotangent), transpose(cotangent)):
        # The tolerance is for rounding the cotangent and the result to bfloat16.
        np.testing.assert_allclose(np.float64(ours), gradient, rtol=0, atol=2**-7 * np.abs(gradient).max())


def test_eight_devices_compute_the_numbers_of_one_and_gather_nothing():
    mesh = sharding.make_mesh()
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)):
        model, images = FoldedConvBN(FEATURES, dtype=dtype), jnp.asarray(images_of(16), dtype)
        variables = variables_of(model, images)

        def ours(variables, images, model=model):
            return run(model, variables, images, True)

        whole, split = sharding.replicated(mesh), sharding.split(mesh)
        placed = jax.device_put(variables, whole), jax.device_put(images, split)
        compiled = jax.jit(sharding.in_context(ours, mesh)).lower(*placed).compile()
        found = jax.tree.map(np.float32, compiled(*placed))
        assert_equal(found, jax.tree.map(np.float32, ours(variables, images)), tolerance)
        assert {collective.kind for collective in Program(compiled.as_text()).collectives()} == {"all-reduce"}
