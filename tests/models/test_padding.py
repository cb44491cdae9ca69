"""What is padding does not count: neither in the means of the context modules nor in both contexts of the prior."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from cpnet_jax.models import CPNet, PriorOptions
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.models.resampling import adaptive_average_pool, upsample

# The real part of maps of 9x12: all of it, its top left, and in the middle.
PARTS = [(0, 0, 9, 12), (0, 0, 5, 7), (2, 3, 1, 9)]
pytestmark = pytest.mark.usefixtures("quick_compilation")


def picture(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def mask(shape, part):
    top, left, height, width = part
    return jnp.zeros(shape, bool).at[:, top : top + height, left : left + width].set(True)


def inside(x, part):
    top, left, height, width = part
    return x[:, top : top + height, left : left + width]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("grid", [1, 2, 6])
def test_pooling_and_upsampling_of_a_part_are_those_of_the_part_alone(part, grid):
    x = picture(2, 9, 12, 3)
    real = mask((2, 9, 12), part)
    pooled, alone = adaptive_average_pool(x, (grid, grid), real), adaptive_average_pool(inside(x, part), (grid, grid))
    np.testing.assert_allclose(pooled, alone, atol=1e-6)
    found = inside(upsample(pooled, (9, 12), real), part)
    np.testing.assert_allclose(found, upsample(alone, part[2:]), atol=1e-5)


def test_parts_may_differ_from_image_to_image():
    x, parts = picture(3, 9, 12, 2), PARTS
    real = jnp.concatenate([mask((1, 9, 12), part) for part in parts])
    pooled = adaptive_average_pool(x, (2, 3), real)
    for i, part in enumerate(parts):
        np.testing.assert_allclose(pooled[i], adaptive_average_pool(inside(x[i : i + 1], part), (2, 3))[0], atol=1e-6)


PAIRS = {"prior_size": None, "prior": PriorOptions(kind="pairs", aggregation_kernel=3)}
NETWORKS = {
    "dilated FCN": {"context_prior": False},
    "pairs": PAIRS,
    "psp": {"context_prior": False, "context": CONTEXTS["psp"]},
    "aspp": {"context_prior": False, "context": partial(CONTEXTS["aspp"], dilations=(1, 2))},
    "non_local": {"context_prior": False, "context": CONTEXTS["non_local"]},
    "pairs of non_local": PAIRS | {"context": CONTEXTS["non_local"]},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_far_from_padding_do_not_depend_on_it(small_backbone, name):
    """Convolutions see padding near the border. What looks at all positions must leave it out; it still sees the
    features near the border."""
    model = CPNet(4, depth=18, channels=8, aux_channels=0, **NETWORKS[name])
    size, padded = (16, 512), (16, 1024)
    variables = random_weights.draw(
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False))
    )
    x = picture(1, *size, 3, seed=1)
    wide = jnp.pad(x, ((0, 0), (0, 0), (0, 512), (0, 0)))
    real = jnp.zeros((1, padded[0] // 8, padded[1] // 8), bool).at[:, :, : size[1] // 8].set(True)
    apply = jax.jit(partial(model.apply, variables, train=False))
    alone, masked, unmasked = (apply(x).logits, apply(wide, real=real).logits, apply(wide).logits)
    by_column, without_mask = (np.abs(found[:, :, :64] - alone).max((0, 1, 3)) for found in (masked, unmasked))
    assert model.takes_any_size
    assert by_column[-1] > 0.1  # it has an effect near the border
    # Two parts that look at all positions see more of the features near the border.
    share = 0.7 if name == "pairs of non_local" else 1 / 3
    assert by_column[0] < (1e-5 if name == "dilated FCN" else share * without_mask[0])


def test_networks_that_cannot_leave_out_padding_take_one_size():
    assert not CPNet(4).takes_any_size
    assert CPNet(4, prior=PriorOptions(kind="pairs")).takes_any_size
