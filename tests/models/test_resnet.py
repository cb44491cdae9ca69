"""The dilated backbone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from cpnet_jax.models import ResNet, resnet


def count(tree):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))


def abstract_init(model, size):
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)


# torchvision's counts without the classifier; the deep stem replaces 7*7*3*64 weights by 3*3*(3*32 + 32*32 + 32*64)
# and has two more BatchNorms of 32.
DEEP_STEM = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * 2 * 32 - 49 * 3 * 64


@pytest.mark.parametrize(
    ("depth", "stem", "parameters"),
    [
        (18, "classic", 11_176_512),
        (34, "classic", 21_284_672),
        (50, "deep", 23_508_032 + DEEP_STEM),
        (101, "classic", 42_500_160),
    ],
)
def test_parameter_counts_are_the_published_ones(depth, stem, parameters):
    variables = abstract_init(ResNet(depth=depth, stem=stem), (64, 64))
    assert count(variables["params"]) == parameters


@pytest.mark.parametrize(("depth", "channels"), [(18, (256, 512)), (50, (1024, 2048))])
def test_output_stride_is_eight(depth, channels):
    model = ResNet(depth=depth)
    image = jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.float32)
    initialise = partial(model.init_with_output, train=False)
    (res4, res5), _ = jax.eval_shape(initialise, jax.random.key(0), image)
    assert (res4.shape, res5.shape) == ((2, 12, 8, channels[0]), (2, 12, 8, channels[1]))


@pytest.mark.parametrize("depth", [18, 50])
def test_atrous_consistency_subsampled_features_are_those_of_the_classification_network(monkeypatch, depth):
    # The dilated stages need a second block, whose dilation is not halved.
    monkeypatch.setitem(resnet.STAGE_SIZES, depth, (0, 1, 2, 2))
    images = jax.random.normal(jax.random.key(1), (1, 96, 64, 3))
    dense = ResNet(depth=depth)
    strided = ResNet(depth=depth, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
    variables = random_weights.draw(abstract_init(dense, images.shape[1:3]))
    dense4, dense5 = jax.jit(lambda v: dense.apply(v, images, train=False))(variables)
    strided4, strided5 = jax.jit(lambda v: strided.apply(v, images, train=False))(variables)
    assert (dense5.shape[1:3], strided5.shape[1:3]) == ((12, 8), (3, 2))
    np.testing.assert_allclose(dense4[:, ::2, ::2], strided4, rtol=1e-4, atol=1e-4 * float(jnp.abs(strided4).max()))
    np.testing.assert_allclose(dense5[:, ::4, ::4], strided5, rtol=1e-4, atol=1e-4 * float(jnp.abs(strided5).max()))


def test_first_block_of_a_dilated_stage_keeps_half_the_dilation(monkeypatch):
    monkeypatch.setitem(resnet.STAGE_SIZES, 50, (1, 2, 2, 3))
    model = ResNet(depth=50)
    image = jax.ShapeDtypeStruct(
        (1, 32, 32, 3), jnp.float32
    )  # too small for a form other than lax.conv_general_dilated
    variables = abstract_init(model, (32, 32))
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image)
    dilations = [
        equation.params["rhs_dilation"][0]
        for equation in jaxpr.jaxpr.eqns
        if equation.primitive.name == "conv_general_dilated" and equation.invars[1].aval.shape[:2] == (3, 3)
    ]
    stem, stages = [1] * 3, [1] + [1, 1] + [1, 2] + [2, 4, 4]
    assert dilations == stem + stages


@pytest.fixture
def only_the_stem(monkeypatch):
    """A ResNet without residual blocks."""
    monkeypatch.setitem(resnet.STAGE_SIZES, 18, (0, 0))


def test_strided_convolutions_are_aligned_as_in_torch(only_the_stem):
    torch = pytest.importorskip("torch")
    model = ResNet(depth=18, stem="classic")
    images = np.random.default_rng(0).normal(size=(1, 32, 48, 3)).astype(np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), jnp.asarray(images), train=False))()
    _, captured = model.apply(variables, jnp.asarray(images), train=False, capture_intermediates=True)
    ours = captured["intermediates"]["stem1"]["__call__"][0]
    kernel = torch.tensor(np.asarray(variables["params"]["stem1"]["conv"]["kernel"]).transpose(3, 2, 0, 1))
    theirs = torch.conv2d(torch.tensor(images.transpose(0, 3, 1, 2)), kernel, stride=2, padding=3)
    theirs = torch.relu(theirs / np.sqrt(1 + 1e-5)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_batch_norm_keeps_nine_tenths_of_its_running_statistics(only_the_stem):
    model = ResNet(depth=18)
    images = 3 + 2 * jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    (_, updates) = jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]))(variables)
    conv = jax.lax.conv_general_dilated(
        images,
        variables["params"]["stem1"]["conv"]["kernel"],
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    statistics = updates["batch_stats"]["stem1"]["bn"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * conv.mean((0, 1, 2)), atol=1e-5)
    # The unbiased variance, as in torch: 512/511 of the one that normalises.
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * conv.var((0, 1, 2), ddof=1), rtol=1e-5)


@pytest.mark.parametrize(("field", "value"), [("depth", 42), ("stem", "soft")])
def test_unknown_depth_or_stem_is_refused(without_shape_checks, field, value):
    with pytest.raises(ValueError, match=f"{field} is"):
        abstract_init(ResNet(**{field: value}), (64, 64))
