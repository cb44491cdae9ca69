"""Choice of forms, and recomputation of residual blocks in the backward pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from cpnet_jax import losses
from cpnet_jax.models import CPNet, Forms, resnet

pytestmark = pytest.mark.usefixtures("quick_compilation")
IMAGES = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 32, 3)), jnp.float32)


def network(depth=18, prior_size=(4, 4), **forms):
    return CPNet(3, depth, prior_size, channels=8, aux_channels=8, forms=Forms(**forms))


def abstract_init(model, images=IMAGES):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def test_cpus_have_the_plain_forms_gpus_large_products_and_tpus_forms_for_their_tiles():
    assert Forms.for_platform("cpu") == Forms()
    gpu = Forms.for_platform("gpu")
    assert gpu == Forms(prior_block_rows=4096, upsampled_loss="windows")
    assert [gpu.block_rows(n) for n in (3600, 4096, 9216)] == [4096, 4096, 4096]
    tpu = Forms.for_platform("tpu")
    assert tpu.space_to_depth_stem and tpu.folded_norm and not tpu.remat
    # All rows of an image if its logits fit the vector memory.
    assert [tpu.block_rows(n) for n in (3600, 4096, 65 * 64)] == [3600, 4096, 1024]


def test_an_unknown_platform_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match="platform is 'abacus'"):
        Forms.for_platform("abacus")


def test_the_prior_has_the_rows_in_a_block_that_the_forms_say_and_brings_the_targets_sums():
    targets = losses.AffinityTargets(jnp.zeros((2, 16), jnp.int32))
    for rows, expected in ((None, None), (512, 512), (7, 7)):
        model = network(prior_block_rows=rows)
        apply = partial(model.apply, train=False, targets=targets)
        prior = jax.eval_shape(apply, abstract_init(model), IMAGES).prior
        assert prior.block_rows == expected
        known_targets, sums = prior.known
        assert known_targets.labels.shape == sums.predicted.shape == (2, 16)


def test_a_block_without_rows_is_refused():
    with pytest.raises(ValueError, match="prior_block_rows is 0"):
        Forms(prior_block_rows=0)


def train(model, variables):
    """(loss, new statistics), gradients of the parameters; in float64."""

    def scalar(params):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            jnp.asarray(IMAGES, float),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        weighted = [jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) * x for x in jax.tree.leaves(outputs)]
        return sum(x.mean() for x in weighted), updates

    return jax.jit(jax.value_and_grad(scalar, has_aux=True))(variables["params"])


def test_rematerialisation_changes_no_number(small_backbone):
    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, random_weights.draw(abstract_init(network())))
        stored, recomputed = (train(network(remat=remat), variables) for remat in (False, True))
        assert_equal = partial(np.testing.assert_allclose, rtol=0, atol=1e-10)
        jax.tree.map(lambda a, b: assert_equal(a / np.abs(b).max(), b / np.abs(b).max()), recomputed, stored)


def stored_bytes(model, images):
    """Bytes that the forward pass stores for the backward pass, without the variables."""

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

    variables = abstract_init(model, images)
    return bytes_of(jax.eval_shape(residuals, variables)) - bytes_of(variables)


def bytes_of(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_rematerialised_blocks_store_less(monkeypatch):
    monkeypatch.setattr(resnet, "STAGE_SIZES", {50: (0, 1, 1, 1)})
    images = jnp.zeros((4, 64, 64, 3))
    everything, inputs = (stored_bytes(network(50, (8, 8), remat=remat), images) for remat in (False, True))
    assert inputs < 0.7 * everything
