"""A file is exported only if it computes what the live network does."""

import jax.numpy as jnp
import numpy as np
import pytest
from exported_networks import CROP, outputs

from cpnet_jax.errors import UserError
from cpnet_jax.inference.export.verify import TOLERANCE, probe_images, verify


def test_each_compilation_is_announced_before_it_starts():
    said, when = [], []

    def network(images):
        when.append(len(said))
        return {"logits": jnp.zeros((len(images), 4, 4, 2)), "classes": jnp.zeros((len(images), 32, 32), jnp.uint8)}

    verify(network, lambda images: network(images)["logits"], (32, 32), "float32", said.append)
    assert when == [1, 2, 3] and len(set(said)) == 3


def some_logits(images):
    """The same for an image alone as in a batch."""
    return jnp.asarray(np.random.default_rng(2).normal(0, 5, (3, 2, 3, 4)), jnp.float32)[: len(images)]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_logits_may_differ_up_to_the_tolerance(dtype):
    def shifted(images, parts):
        logits = some_logits(images)
        return outputs(logits.at[0, 0, 0, 0].add(parts * TOLERANCE[dtype] * jnp.abs(logits).max()))

    agreement = verify(lambda images: shifted(images, 0.9), some_logits, CROP, dtype)
    assert agreement.difference == pytest.approx(0.9 * TOLERANCE[dtype], rel=1e-2)
    with pytest.raises(UserError, match="differs"):
        verify(lambda images: shifted(images, 1.1), some_logits, CROP, dtype)


def test_a_single_wrong_class_is_rejected():
    def with_one_wrong(images):
        right = outputs(some_logits(images))
        return right | {"classes": right["classes"].at[-1, 0, 0].set((right["classes"][-1, 0, 0] + 1) % 4)}

    with pytest.raises(UserError, match="differs"):
        verify(with_one_wrong, some_logits, CROP, "float32")


def test_non_finite_logits_are_rejected():
    def nan(images):
        return some_logits(images).at[0, 0, 0, 0].set(jnp.nan)

    with pytest.raises(UserError, match="not finite"):
        verify(lambda images: outputs(nan(images)), nan, CROP, "float32")
    with pytest.raises(UserError, match="differs"):
        verify(lambda images: outputs(nan(images)), some_logits, CROP, "float32")


@pytest.mark.parametrize("size", [(16, 24), (480, 488)])
def test_images_to_compare_on_are_of_the_windows_size_and_use_the_whole_range(size):
    images = probe_images(size)
    assert images.shape == (3, *size, 3) and images.dtype == np.uint8
    assert all(np.ptp(image) > 150 for image in images)
