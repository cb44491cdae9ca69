"""Switches of the network change what they should, and nothing else."""

import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax.traverse_util import flatten_dict

from cpnet_jax import losses
from cpnet_jax.models import CPNet, PriorFactors, PriorOptions, ResNet
from cpnet_jax.models.context_prior import ContextPrior
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.models.layers import ConvBN

GRID, FAN_IN, CHANNELS = (3, 5), 7, 6
N = GRID[0] * GRID[1]
pytestmark = pytest.mark.usefixtures("quick_compilation")


def shapes(model, x, **options):
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False, **options), x)


def abstract_params(size=(32, 48), **options):
    model = CPNet(
        **({"num_classes": 5, "depth": 18, "prior_size": (4, 6), "channels": 16, "aux_channels": 8} | options)
    )
    return shapes(model, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))["params"]


def test_the_papers_network_keeps_its_parameters_names_and_shapes():
    """Checkpoints depend on them. The digest is that of the first version that wrote checkpoints."""
    variables = shapes(CPNet(num_classes=150, prior_size=(60, 60)), jax.ShapeDtypeStruct((1, 480, 480, 3), jnp.float32))
    listed = sorted(f"{path} {leaf.shape}" for path, leaf in flatten_dict(dict(variables), sep="/").items())
    assert hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16] == "dd59740ba68baa05"


# Contexts


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_a_context_module_is_in_front_of_the_head_or_replaces_the_aggregation(name):
    alone, with_prior = (abstract_params(context=CONTEXTS[name], context_prior=prior) for prior in (False, True))
    assert alone.keys() == {"backbone", "context_module", "head", "aux_head"}
    assert with_prior.keys() == alone.keys() | {"context"}
    assert with_prior["context"].keys() == {"reduce", "prior", "intra", "inter"}
    # The module is the same, and a 3x3 convolution follows it either way.
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
        ({"context": partial(CONTEXTS["psp"], pool_sizes=(1, 0))}, "pool_sizes are"),
        ({"context": partial(CONTEXTS["aspp"], dilations=(0,))}, "dilations are"),
        ({"prior": PriorOptions(aggregation_kernel=4)}, "kernel_size is 4: it must be odd and positive"),
        ({"prior": PriorOptions(aggregation_kernel=-1)}, "kernel_size is -1"),
        ({"backbone": partial(ResNet, 18, multi_grid=(1, 2, 4))}, "2 blocks"),
        ({"backbone": partial(ResNet, 18, multi_grid=(1, 0))}, "a positive factor"),
    ],
)
def test_an_impossible_value_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        abstract_params(**options)


def test_an_unknown_choice_of_contexts_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match="contexts is 'none'"):
        PriorOptions(contexts="none")


# The Context Prior Layer


def layer(block_rows=512, **options):
    return ContextPrior(GRID, CHANNELS, PriorOptions(aggregation_kernel=3, **options), block_rows)


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
def test_a_single_context_equals_that_of_both_and_the_others_layers_do_not_exist(features, both, kept, left_out, place):
    variables, *contexts, prior = both
    alone, reduced = layer(contexts=kept), without(variables, left_out)
    assert jax.tree.map(jnp.shape, dict(shapes(alone, features))) == jax.tree.map(jnp.shape, reduced)
    found = jax.jit(lambda: alone.apply(reduced, features, train=False))()
    assert found[1 - place] is None
    np.testing.assert_allclose(found[place], contexts[place], rtol=1e-6)
    np.testing.assert_allclose(found[2].logits(), prior.logits(), rtol=1e-6)


@pytest.mark.parametrize(("contexts", "extra"), [("intra", 16), ("inter", 16), ("both", 32)])
def test_the_head_sees_the_backbone_and_the_chosen_contexts(contexts, extra):
    params = abstract_params(prior=PriorOptions(contexts=contexts))
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


def test_the_layer_does_not_divide_if_told_not_to(features, both):
    """Kernels divided by N undo the missing division."""
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
def test_blocks_and_all_rows_at_once_agree_with_every_switch_set(features, contexts):
    """Compares values and gradients, in one pass with the sums of the affinity loss."""
    options = {"contexts": contexts, "divide_by_n": False, "aggregation": False}
    variables = random_weights.draw(shapes(layer(**options), features))
    targets = losses.AffinityTargets(jnp.asarray(np.random.default_rng(1).integers(0, 3, (2, N))))

    def run(block_rows):
        def scalar(features):
            module = layer(**options, block_rows=block_rows)
            *found, prior = module.apply(variables, features, train=False, targets=targets)
            found = [y for y in found if y is not None]
            return sum((y**2).sum() for y in found) + prior.known[1].predicted.sum(), found

        return jax.jit(jax.grad(scalar, has_aux=True))(features)

    blocks, dense = run(4), run(None)
    assert len(dense[1]) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()), blocks, dense)


# The backbone


def dilations(size=(64, 64), **options):
    """Dilations of the last stage's 3x3 convolutions, in order."""
    model = ResNet(**options, dtype=jnp.bfloat16)  # for which no platform has another form of 3x3 convolution
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
