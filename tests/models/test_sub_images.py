"""Dilated stages as ordinary convolutions of sub-images, and rematerialisation: the same network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax import sharding
from cpnet_jax.models import CPNet, ResNet, resnet
from cpnet_jax.models.sub_images import rearrange
from cpnet_jax.plan.hlo import Program


@pytest.fixture
def few_blocks(monkeypatch):
    """What compiles quickly: two blocks in every dilated stage, and features at output stride 4."""
    monkeypatch.setattr(resnet, "STAGE_SIZES", {18: (0, 0, 2, 2), 50: (0, 0, 2, 2)})


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_sub_images_hold_every_nth_position_of_their_own_image(parts):
    x = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    y, found = rearrange(x, 1, parts)
    assert (found, y.shape) == (parts, (2 * parts**2, 8 // parts, 12 // parts, 3))
    for image in range(2):
        own = y[image * parts**2 : (image + 1) * parts**2]
        expected = {x[image, i::parts, j::parts].tobytes() for i in range(parts) for j in range(parts)}
        assert {np.ascontiguousarray(sub).tobytes() for sub in own} == expected
    np.testing.assert_array_equal(rearrange(y, parts, 1)[0], x)


@pytest.mark.parametrize(("size", "parts"), [((7, 8), 1), ((8, 7), 1), ((6, 8), 2), ((8, 8), 4)])
def test_sides_are_halved_as_often_as_they_divide(size, parts):
    x = np.zeros((1, *size, 1))
    assert rearrange(x, 1, 4)[1] == parts


def variables_of(model, images):
    """Random everywhere, so that no residual branch is silent."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(size=leaf.shape) * (0.1 if len(leaf.shape) == 1 else np.prod(leaf.shape[:-1]) ** -0.5)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def train(model, variables, images):
    """(outputs, new BatchNorm statistics, gradients for parameters and images)."""

    def run(params, images):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        weighted = [jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) * x for x in jax.tree.leaves(outputs)]
        return sum(x.mean() for x in weighted), (outputs, updates)

    gradient, aux = jax.jit(jax.grad(run, (0, 1), has_aux=True))(variables["params"], images)
    return aux, gradient


def assert_equal(one, other, tolerance=1e-10):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(("depth", "size"), [(50, (32, 16)), (18, (24, 16))])
def test_space_to_batch_is_the_same_network_forward_and_backward(few_blocks, depth, size):
    """Features of 8x4; and of 6x4, which is halved only once."""
    with jax.enable_x64(True):
        images = np.random.default_rng(1).normal(size=(2, *size, 3))
        plain, ours = (ResNet(depth, dilation_impl=impl) for impl in ("plain", "space_to_batch"))
        variables = variables_of(plain, images)
        assert_equal(train(ours, variables, images), train(plain, variables, images))


def dilations(model, size):
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image)
    return {
        equation.params["rhs_dilation"][0]
        for equation in jaxpr.jaxpr.eqns
        if equation.primitive.name == "conv_general_dilated"
    }


def test_space_to_batch_leaves_no_dilated_convolution_where_the_sides_divide():
    assert dilations(ResNet(50), (64, 32)) == {1, 2, 4}
    assert dilations(ResNet(50, dilation_impl="space_to_batch"), (64, 32)) == {1}
    assert dilations(ResNet(50, dilation_impl="space_to_batch"), (48, 32)) == {1, 2}


def test_space_to_batch_makes_devices_exchange_nothing_more(few_blocks):
    """Every device splits its own images: no all-gather, no all-to-all; and eight devices find what one does."""
    mesh = sharding.make_mesh()
    images = np.random.default_rng(1).normal(size=(8, 16, 16, 3)).astype(np.float32)
    split = jax.device_put(images, sharding.split(mesh))
    programs, outputs = {}, {}
    for impl in ("plain", "space_to_batch"):
        model = ResNet(18, dilation_impl=impl)
        variables = jax.tree.map(jnp.float32, variables_of(model, images))

        def run(variables, images, model=model):
            return model.apply(variables, images, train=True, mutable=["batch_stats"])

        compiled = jax.jit(run).lower(jax.device_put(variables, sharding.replicated(mesh)), split).compile()
        programs[impl] = [(found.kind, found.times) for found in Program(compiled.as_text()).collectives()]
        outputs[impl] = compiled(jax.device_put(variables, sharding.replicated(mesh)), split)
    assert programs["plain"]
    assert {kind for kind, _ in programs["space_to_batch"]} == {"all-reduce"}
    assert len(programs["space_to_batch"]) == len(programs["plain"])
    assert_equal(outputs["space_to_batch"], outputs["plain"], 1e-4)


# Rematerialisation

REMAT = ("none", "blocks", "full")


def network(remat):
    return CPNet(3, 18, (4, 4), channels=8, aux_channels=8, aggregation_kernel=3, remat=remat)


def test_rematerialisation_changes_no_number(monkeypatch):
    monkeypatch.setattr(resnet, "STAGE_SIZES", {18: (0, 1, 0, 1)})
    with jax.enable_x64(True):
        images = np.random.default_rng(1).normal(size=(2, 32, 32, 3))
        variables = variables_of(network("none"), images)
        assert_equal(train(network("full"), variables, images), train(network("none"), variables, images))


def kept(model, images):
    """Bytes that go from the forward pass to the backward one, beside the variables."""

    def residuals(variables):
        def run(params):
            return model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )

        return jax.vjp(run, variables["params"])[1]

    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return bytes_of(jax.eval_shape(residuals, variables)) - bytes_of(variables)


def bytes_of(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_what_is_computed_again_is_not_kept(monkeypatch):
    monkeypatch.setattr(resnet, "STAGE_SIZES", {50: (0, 1, 1, 1)})
    images = np.zeros((4, 64, 64, 3), np.float32)
    none, blocks, full = (kept(CPNet(3, 50, (8, 8), remat=remat), images) for remat in REMAT)
    assert full < 0.7 * blocks < 0.5 * none


@pytest.mark.parametrize(("model", "field"), [(network("some"), "remat"), (ResNet(18, dilation_impl="x"), "dilation_")])
def test_unknown_choices_are_refused(model, field):
    with pytest.raises(ValueError, match=field):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
