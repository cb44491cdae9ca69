"""A batch without any labelled pixel has a finite loss and finite gradients."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax import losses, models

pytestmark = pytest.mark.usefixtures("quick_compilation")
HARD = losses.Ohem(threshold=0.7, min_kept=10)


@pytest.mark.parametrize(
    ("ignored", "mean_over", "ohem"),
    [("class", "labelled", None), ("mask", "labelled", HARD), ("mask", "all", None)],
    ids=["as the release", "hard pixels", "over all pixels"],
)
def test_the_loss_of_hardly_any_labels_is_finite(ignored, mean_over, ohem):
    rng = np.random.default_rng(0)
    logits, *factors = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 2, 3, 4), (2, 6, 5), (5, 6), (6,)))
    options = {"ignored": ignored, "mean_over": mean_over, "ohem": ohem}

    @jax.jit
    def run(labels):
        def loss(logits, prior):
            output = types.SimpleNamespace(logits=logits, aux_logits=2 * logits, prior=prior)
            return losses.total_loss(output, labels, class_weights=(1, 0, 2, 3), **options)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(logits, models.PriorFactors(*factors))

    labels = np.full((2, 16, 24), 255, np.uint8)
    (_, terms), gradients = found = run(labels)
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(found))
    assert terms["segmentation"] == terms["aux"] == 0 and not gradients[0].any()
    labels[0, 0, 0] = 1  # a class of weight 0
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(run(labels)))
