"""The stem after space-to-depth: the same network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cpnet_jax import sharding
from cpnet_jax.models import Forms, ResNet, resnet
from cpnet_jax.models.forms import space_to_depth
from cpnet_jax.plan.hlo import Program

FORMS = {"plain": Forms(), "space_to_depth": Forms(space_to_depth_stem=True)}


@pytest.fixture(autouse=True)
def no_stages(monkeypatch):
    """A ResNet that is only its stem: both features are the stem's output."""
    monkeypatch.setattr(resnet, "STAGE_SIZES", {18: (0, 0)})


def depth_to_space(x, side):
    """The inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, side, side, c // side**2).transpose(0, 1, 4, 2, 3, 5).reshape(b, h * side, w * side, -1)


def test_a_block_holds_its_pixels_column_by_column():
    x = jnp.arange(2.0 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    y = np.asarray(space_to_depth.space_to_depth(x, 4))
    assert y.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(y[1, 1, 2, 5 * 3 : 6 * 3], x[1, 4 + 1, 8 + 1])
    np.testing.assert_array_equal(depth_to_space(y, 4), x)


def variables_of(model, images):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape) * rng.choice((-1, 1), leaf.shape), shapes)


def train(model, variables, images):
    """(features, new BatchNorm statistics, gradients for parameters and images)."""

    def run(params, images):
        (features, _), updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, images, train=True, mutable=["batch_stats"]
        )
        weights = jnp.sin(jnp.arange(features.size, dtype=features.dtype)).reshape(features.shape)
        return (weights * features).mean(), (features, updates)

    gradient, aux = jax.jit(jax.grad(run, (0, 1), has_aux=True))(variables["params"], images)
    return aux, gradient


def assert_equal(one, other, tolerance):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(), rtol=0, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("stem", ["deep", "classic"])
def test_the_stem_is_the_same_forward_and_backward(stem):
    with jax.enable_x64(True):
        images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16, 24, 3)))
        plain, ours = (ResNet(18, stem, forms=forms) for forms in FORMS.values())
        variables = variables_of(plain, images)
        assert_equal(train(ours, variables, images), train(plain, variables, images), 1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
def test_kernels_of_any_size_become_kernels_of_blocks(size, stride):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((1, 16, 8, 2), (size, size, 2, 3)))
        layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        expected = jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((size // 2,) * 2,) * 2, **layout)
        block_kernel, padding = space_to_depth.block_kernel(kernel, stride)
        found = jax.lax.conv_general_dilated(
            space_to_depth.space_to_depth(x, 2 * stride), block_kernel, (1, 1), (padding, padding), **layout
        )
    np.testing.assert_allclose(depth_to_space(found, 2), expected, atol=1e-12)


def test_max_pool_has_the_gradient_of_the_first_of_equal_maxima():
    """Integers from a small range: most windows have several maxima."""
    rng = np.random.default_rng(0)
    x, weights = jnp.asarray(rng.integers(-3, 3, (2, 8, 12, 5)), jnp.float32), rng.normal(size=(2, 4, 6, 5))

    def plain(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def ours(x):
        return space_to_depth.max_pool(space_to_depth.space_to_depth(x, 2))

    np.testing.assert_array_equal(ours(x), plain(x))
    one, other = (jax.grad(lambda x, pool=pool: (weights * pool(x)).sum())(x) for pool in (ours, plain))
    np.testing.assert_allclose(one, other, atol=1e-6)


def convolutions(size):
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    model = ResNet(18, forms=FORMS["space_to_depth"])
    variables = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image)
    return [e.invars[1].aval.shape for e in jaxpr.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]


def test_images_whose_sides_are_not_multiples_of_4_use_the_plain_stem():
    assert convolutions((16, 24)) == [(2, 2, 48, 128), (3, 3, 128, 128), (3, 3, 128, 256)]
    assert convolutions((18, 24)) == convolutions((16, 22)) == [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64)]


def test_devices_exchange_as_often_as_with_the_plain_stem():
    """Statistics are over the global batch, and eight devices compute the numbers of one."""
    mesh = sharding.make_mesh()
    images = jnp.asarray(np.random.default_rng(1).normal(size=(8, 16, 16, 3)), jnp.float32)
    split = jax.device_put(images, sharding.split(mesh))
    exchanges = {}
    variables = jax.tree.map(jnp.float32, variables_of(ResNet(18), images))
    on_one_device = train(ResNet(18), variables, images)
    for name, forms in FORMS.items():
        model = ResNet(18, forms=forms)
        whole = jax.device_put(variables, sharding.replicated(mesh))
        compiled = jax.jit(lambda v, x, model=model: train(model, v, x)).lower(whole, split).compile()
        found = Program(compiled.as_text()).collectives()
        assert {collective.kind for collective in found} == {"all-reduce"}
        exchanges[name] = len(found)
        assert_equal(compiled(whole, split), on_one_device, 1e-5)
    assert exchanges["space_to_depth"] <= exchanges["plain"]
