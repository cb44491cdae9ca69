"""What the network's switches change, and that they change nothing else."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax.traverse_util import flatten_dict

from cpnet_jax import losses
from cpnet_jax.models import CPNet, PriorFactors, ResNet
from cpnet_jax.models.context_prior import ContextPrior
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.models.layers import ConvBN

GRID, FAN_IN, CHANNELS = (3, 5), 7, 6
N = GRID[0] * GRID[1]
# Code that runs once need not be optimised.
IN_A_HURRY = {"compiler_options": {"xla_backend_optimization_level": 0}}


def shapes(model, x, **options):
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False, **options), x)


def abstract_params(size=(32, 48), **options):
    model = CPNet(
        **({"num_classes": 5, "depth": 18, "prior_size": (4, 6), "channels": 16, "aux_channels": 8} | options)
    )
    return shapes(model, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))["params"]


def test_the_papers_network_keeps_its_parameters_names_and_shapes():
    """Checkpoints depend on them. The digest is that of the first version whose checkpoints there are."""
    variables = shapes(CPNet(num_classes=150, prior_size=(60, 60)), jax.ShapeDtypeStruct((1, 480, 480, 3), jnp.float32))
    listed = sorted(f"{path} {leaf.shape}" for path, leaf in flatten_dict(dict(variables), sep="/").items())
    assert hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16] == "dd59740ba68baa05"


# Contexts


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_a_context_stands_before_the_head_or_with_the_prior_in_the_aggregations_place(name):
    alone, with_prior = (abstract_params(context=name, context_prior=prior) for prior in (False, True))
    assert alone.keys() == {"backbone", "context_module", "head", "aux_head"}
    assert with_prior.keys() == alone.keys() | {"context"}
    assert with_prior["context"].keys() == {"reduce", "prior", "intra", "inter"}
    # The module is the same; what takes its features in is a 3x3 convolution either way.
    assert jax.tree.map(jnp.shape, with_prior["context_module"]) == jax.tree.map(jnp.shape, alone["context_module"])
    assert with_prior["context"]["reduce"]["conv"]["kernel"].shape == alone["head"]["conv"]["conv"]["kernel"].shape
    paper = abstract_params()
    assert with_prior["head"]["conv"]["conv"]["kernel"].shape == paper["head"]["conv"]["conv"]["kernel"].shape


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_a_context_works_in_bfloat16_and_at_any_size(name):
    module = CONTEXTS[name](channels=8, dtype=jnp.bfloat16)
    for size in ((1, 1), (3, 5), (60, 45)):
        x = jax.ShapeDtypeStruct((2, *size, 16), jnp.bfloat16)
        variables = shapes(module, x)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        found = jax.eval_shape(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])[0], variables, x)
        assert found.shape[:3] == (2, *size) and found.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": "pyramid"}, r"context is 'pyramid'; it must be one of \['none', 'psp'"),
        ({"context": "psp", "context_options": {"pool_sizes": (1, 0)}}, "pool_sizes are"),
        ({"context": "aspp", "context_options": {"dilations": (0,)}}, "dilations are"),
        ({"prior_contexts": "none"}, "contexts is 'none'"),
        ({"aggregation_kernel": 4}, "kernel_size is 4; it must be odd and positive"),
        ({"aggregation_kernel": -1}, "kernel_size is -1"),
        ({"multi_grid": (1, 2, 4)}, "2 blocks"),
        ({"multi_grid": (1, 0)}, "1 or more"),
    ],
)
def test_a_value_that_cannot_work_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        abstract_params(**options)


# The context prior's own


def layer(**options):
    return ContextPrior(prior_size=GRID, channels=CHANNELS, aggregation_kernel=3, **options)


@pytest.fixture(scope="module")
def features():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, *GRID, FAN_IN)), jnp.float32)


@pytest.fixture(scope="module")
def both(features):
    """(variables, intra, inter, prior) of the whole layer."""
    variables = random_weights.draw(shapes(layer(), features))
    return variables, *jax.jit(lambda: layer().apply(variables, features, train=False))()


def without(variables, name):
    return {part: {key: value for key, value in tree.items() if key != name} for part, tree in variables.items()}


@pytest.mark.parametrize(("kept", "left_out", "place"), [("intra", "inter", 0), ("inter", "intra", 1)])
def test_one_context_alone_is_that_of_both_and_the_others_layers_do_not_exist(features, both, kept, left_out, place):
    variables, *contexts, prior = both
    alone, reduced = layer(contexts=kept), without(variables, left_out)
    assert jax.tree.map(jnp.shape, dict(shapes(alone, features))) == jax.tree.map(jnp.shape, reduced)
    found = jax.jit(lambda: alone.apply(reduced, features, train=False))()
    assert found[1 - place] is None
    np.testing.assert_allclose(found[place], contexts[place], rtol=1e-6)
    np.testing.assert_allclose(found[2].logits(), prior.logits(), rtol=1e-6)


@pytest.mark.parametrize(("contexts", "extra"), [("intra", 16), ("inter", 16), ("both", 32)])
def test_the_head_sees_the_backbone_and_the_contexts_that_are_asked_for(contexts, extra):
    params = abstract_params(prior_contexts=contexts)
    assert params["head"]["conv"]["conv"]["kernel"].shape == (3, 3, 512 + extra, 16)
    assert {"intra", "inter"} & params["context"].keys() == {"intra": {"intra"}, "inter": {"inter"}}.get(
        contexts, {"intra", "inter"}
    )


@pytest.mark.parametrize("block_rows", [None, 4])
def test_undivided_contexts_are_n_times_the_divided_ones_and_add_up_to_the_column_sums(block_rows):
    rng = np.random.default_rng(0)
    x, kernel, bias, values = (
        jnp.asarray(rng.normal(size=size), jnp.float32)
        for size in ((2, N, CHANNELS), (CHANNELS, N), (N,), (2, N, CHANNELS))
    )
    prior = PriorFactors(x, kernel, bias, block_rows=block_rows)
    divided, undivided = prior.contexts(values), prior.contexts(values, divide_by_n=False)
    for ours, theirs in zip(undivided, divided, strict=True):
        np.testing.assert_allclose(ours, N * theirs, rtol=1e-5, atol=1e-6)
    sums = np.broadcast_to(values.sum(axis=1, keepdims=True), values.shape)
    np.testing.assert_allclose(sum(undivided), sums, rtol=1e-5, atol=1e-5)


def test_the_layer_passes_undivided_contexts_on(features, both):
    """Kernels N times as small take the factor away again."""
    variables, intra, inter, _ = both
    params = dict(variables["params"])
    for name in ("intra", "inter"):
        params[name] = params[name] | {"conv": {"kernel": params[name]["conv"]["kernel"] / N}}
    undivided = layer(divide_by_n=False)
    found = jax.jit(lambda: undivided.apply(variables | {"params": params}, features, train=False))()
    np.testing.assert_allclose(found[0], intra, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], inter, rtol=1e-4, atol=1e-5)


def test_without_aggregation_the_prior_sees_the_reduction_alone(features):
    module = layer(aggregation=False)
    variables = random_weights.draw(shapes(module, features))
    prior = module.apply(variables, features, train=False)[2]
    reduction = {part: tree["reduce"] for part, tree in variables.items()}
    reduced = ConvBN(CHANNELS, (3, 3)).apply(reduction, features, train=False)
    np.testing.assert_allclose(prior.features, reduced.reshape(2, N, CHANNELS), rtol=1e-6)


@pytest.mark.parametrize("contexts", ["intra", "inter"])
def test_by_blocks_and_all_at_once_are_the_same_with_every_switch_thrown(features, contexts):
    """Values and gradients, in one pass with the sums of the affinity loss."""
    options = {"contexts": contexts, "divide_by_n": False, "aggregation": False}
    variables = random_weights.draw(shapes(layer(**options), features))
    targets = losses.AffinityTargets(jnp.asarray(np.random.default_rng(1).integers(0, 3, (2, N))))

    def run(block_rows):
        def scalar(features):
            module = layer(**options, block_rows=block_rows)
            *found, prior = module.apply(variables, features, train=False, targets=targets)
            found = [y for y in found if y is not None]
            return sum((y**2).sum() for y in found) + prior.known[1].predicted.sum(), found

        return jax.jit(jax.grad(scalar, has_aux=True), **IN_A_HURRY)(features)

    blocks, dense = run(4), run(None)
    assert len(dense[1]) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()), blocks, dense)


# The backbone's


def dilations(size=(64, 64), **options):
    """Of the last stage's 3x3 convolutions, in their order."""
    model = ResNet(**options, dtype=jnp.bfloat16)  # in which no platform has a 3x3 form of its own
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(shapes(model, x), x)
    blocks = {18: 2, 50: 3}[options["depth"]] * (2 if options["depth"] == 18 else 1)
    found = [
        equation.params["rhs_dilation"]
        for equation in program.eqns
        if equation.primitive.name == "conv_general_dilated" and equation.invars[1].aval.shape[:2] == (3, 3)
    ]
    assert all(rows == columns for rows, columns in found)
    return [rows for rows, _ in found[-blocks:]]


def test_multi_grid_multiplies_the_last_stages_dilations_block_by_block():
    assert dilations(depth=50) == dilations(depth=50, multi_grid=(1, 1, 1)) == [2, 4, 4]
    assert dilations(depth=50, multi_grid=(1, 2, 4)) == [2, 8, 16]
    assert dilations(depth=18) == [2, 4, 4, 4]
    assert dilations(depth=18, multi_grid=(2, 3)) == [4, 8, 12, 12]


def test_multi_grid_by_sub_images_is_the_same_network():
    """With a factor that is no power of two, and more sub-images than the sides divide into."""
    plain = ResNet(depth=18, multi_grid=(3, 4))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 32, 3)), jnp.float32)
    variables = random_weights.draw(shapes(plain, images))
    ours, theirs = (
        jax.jit(lambda model=model: model.apply(variables, images, train=False)[1], **IN_A_HURRY)()
        for model in (plain.clone(dilation_impl="space_to_batch"), plain)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
