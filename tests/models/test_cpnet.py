"""The whole network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax.models import CPNet, upsample

pytestmark = pytest.mark.usefixtures("quick_compilation")


def count(tree):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))


def abstract_init(model, size):
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)


def tiny(**options):
    defaults = {"num_classes": 5, "depth": 18, "prior_size": (4, 6), "channels": 16, "aux_channels": 8}
    return CPNet(**(defaults | options))


def init(model, size=(32, 48)):
    return jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False))()


@pytest.fixture(scope="module")
def full_size():
    """(output, variables) of the network of ADE20K for two images, as shapes."""
    model = CPNet(num_classes=150, depth=50, prior_size=(64, 64))
    images = jax.ShapeDtypeStruct((2, 512, 512, 3), jnp.float32)
    return jax.eval_shape(partial(model.init_with_output, train=False), jax.random.key(0), images)


def test_parameter_counts_are_the_published_ones(full_size):
    params = full_size[1]["params"]
    assert count(params["backbone"]) == pytest.approx(23.5e6, abs=0.05e6)
    # Term by term: reduction, two depthwise pairs, their BN, prior, contexts, bottleneck, classifier.
    reduce = 9 * 2048 * 512 + 2 * 512
    pairs = 4 * (11 * 512 + 512) + 2 * 512
    prior = 512 * 4096 + 2 * 4096
    contexts = 2 * (512 * 512 + 2 * 512)
    bottleneck = 9 * (2048 + 2 * 512) * 512 + 2 * 512
    classifier = 512 * 150 + 150
    head = count(params["context"]) + count(params["head"])
    assert head == reduce + pairs + prior + contexts + bottleneck + classifier
    assert head == pytest.approx(26.3e6, abs=0.05e6)


def test_output_shapes_at_full_size(full_size):
    output, _ = full_size
    assert output.logits.shape == output.aux_logits.shape == (2, 64, 64, 150)
    assert output.prior.features.shape == (2, 4096, 512)
    assert jax.eval_shape(lambda p: p.logits(), output.prior).shape == (2, 4096, 4096)


def test_without_the_context_prior_only_the_head_and_the_backbone_remain():
    plain = abstract_init(tiny(context_prior=False), (40, 40))["params"]
    full = abstract_init(tiny(prior_size=(5, 5)), (40, 40))["params"]
    assert plain.keys() == {"backbone", "head", "aux_head"}
    assert full.keys() == plain.keys() | {"context"}
    assert count(plain["backbone"]) == count(full["backbone"])


def test_optional_parts_are_none_when_left_out():
    model = tiny(context_prior=False, aux_channels=0)
    initialise = partial(model.init_with_output, train=False)
    output, _ = jax.eval_shape(initialise, jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
    assert output.aux_logits is None
    assert output.prior is None


def test_bfloat16_keeps_parameters_statistics_logits_and_prior_in_float32(small_backbone):
    model = tiny(dtype=jnp.bfloat16)
    variables = init(model)
    images = jax.random.normal(jax.random.key(1), (2, 32, 48, 3))

    def forward(variables):
        output, updates = model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)}
        )
        return output, output.prior.logits(), updates

    output, prior_logits, updates = jax.jit(forward)(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {jnp.dtype("float32")}
    assert output.logits.dtype == output.aux_logits.dtype == prior_logits.dtype == jnp.float32
    assert output.prior.features.dtype == jnp.bfloat16
    reference, _ = jax.jit(
        lambda v: tiny().apply(v, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)})
    )(variables)
    # The same network except for rounding to bfloat16's three digits.
    assert np.corrcoef(np.ravel(output.logits), np.ravel(reference.logits))[0, 1] > 0.99


def test_initialisation_is_he_by_fan_out_and_a_pure_function_of_the_seed(small_backbone):
    model = tiny(channels=64)
    params = init(model)["params"]
    kernel = params["backbone"]["layer2_0"]["conv1"]["conv"]["kernel"]
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    column = params["context"]["aggregation"]["column_row"]["column"]["kernel"]
    assert float(column.std()) == pytest.approx(np.sqrt(2 / 11), rel=0.1)
    assert float(params["head"]["classifier"]["kernel"].std()) == pytest.approx(0.01, rel=0.1)
    assert not np.any(params["backbone"]["layer2_0"]["conv2"]["bn"]["scale"]), "the last BN of a branch starts at zero"
    eager = model.lazy_init(jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 48, 3), jnp.float32), train=False)
    jax.tree.map(np.testing.assert_array_equal, params, eager["params"])
    other = jax.jit(lambda: model.init(jax.random.key(1), jnp.zeros((1, 32, 48, 3)), train=False))()["params"]
    assert not np.array_equal(other["head"]["conv"]["conv"]["kernel"], params["head"]["conv"]["conv"]["kernel"])


@pytest.mark.parametrize("size", [(36, 48), (32, 44)])
def test_sides_that_are_not_multiples_of_eight_are_refused(size):
    with pytest.raises(ValueError, match="multiples of 8"):
        abstract_init(tiny(context_prior=False), size)


def test_a_size_that_is_not_the_priors_is_refused_naming_both_sizes():
    with pytest.raises(ValueError, match="feature map is 5x6 but the context prior was built for 4x6"):
        abstract_init(tiny(), (40, 48))


@pytest.mark.parametrize("size", [(24, 40), (25, 41), (3, 5), (7, 9)])
def test_upsampling_has_half_pixel_centres_as_torch(size):
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(logits.transpose(0, 3, 1, 2)), size, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(upsample(jnp.asarray(logits), size), theirs.numpy().transpose(0, 2, 3, 1), atol=1e-6)
