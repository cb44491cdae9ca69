"""Steps whose loss or gradient is not finite: what they leave as it was, how many there may be, and what is kept."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax.training.optimizer import poly_schedule, poly_sgd
from cpnet_jax.training.state import STOPPED, create_state
from cpnet_jax.training.step import train_step

# Labels of this value make the loss not a number, of the next one only its gradient.
BAD_LOSS, BAD_GRADIENT = 7, 8


class Network(nn.Module):
    """As little as has parameters, statistics and dropout."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(images))
        return nn.Dropout(0.5, deterministic=not train)(x)


def loss(output, labels):
    value = jnp.mean(output**2) + jnp.where((labels == BAD_LOSS).any(), jnp.nan, 0.0)
    # The root of 0 is 0, and its slope infinite.
    value += jnp.sqrt(jnp.where((labels == BAD_GRADIENT).any(), 0.0 * output.sum(), 1.0))
    return value, {"segmentation": value}


def batch(label=0, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    return {"image": images, "label": np.full((2, 4, 4), label, np.uint8)}


@cache
def prepare(limit):
    model, tx = Network(), poly_sgd(poly_schedule(0.1, 10))
    step = partial(train_step, model=model, loss=loss, tx=tx, normalize=lambda x: x / 255.0, skip_nonfinite=limit)
    return jax.jit(partial(create_state, model, tx, (4, 4), 0))(), jax.jit(step)


def run(labels, limit):
    """States and metrics after every step; the first state is the initial one."""
    state, step = prepare(limit)
    states, history = [state], []
    for seed, label in enumerate(labels):
        state, metrics = step(state, batch(label, seed))
        states.append(state)
        history.append(metrics)
    assert step._cache_size() == 1
    return states, history


def without_counters(state):
    return [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32]


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("bad", [BAD_LOSS, BAD_GRADIENT])
def test_a_skipped_step_changes_nothing_but_the_counters(bad):
    states, history = run([0, bad, 0], limit=1)
    assert [int(metrics["skipped"]) for metrics in history] == [0, 1, 0]
    assert np.isfinite(history[1]["loss"]) == (bad == BAD_GRADIENT)
    assert np.isfinite(history[1]["gradient_norm"]) == (bad == BAD_LOSS)
    before, after = states[1], states[2]
    assert_equal(without_counters(after), without_counters(before))
    assert int(after.step) == 2
    assert len(without_counters(before)) > 4, "parameters, statistics and momentum"
    assert all(np.isfinite(leaf).all() for leaf in without_counters(states[3]))
    assert any((a != b).any() for a, b in zip(without_counters(states[3]), without_counters(after), strict=True))


def test_the_learning_rate_is_that_of_the_step_also_after_a_skipped_one():
    states, _ = run([0, BAD_LOSS, 0], limit=1)
    counts = [leaf for leaf in jax.tree.leaves(states[3].opt_state) if leaf.dtype == jnp.int32]
    assert [int(count) for count in counts] == [3]


def test_more_than_the_limit_in_a_row_stop_and_keep_the_last_good_state():
    """Also from the steps that were taken before anybody looked."""
    states, history = run([0, BAD_LOSS, BAD_LOSS, BAD_LOSS, 0, BAD_LOSS], limit=2)
    assert [int(metrics["skipped"]) for metrics in history] == [0, 1, 2, STOPPED, STOPPED, STOPPED]
    for state in states[4:]:
        assert_equal(state.replace(skipped=2), states[3].replace(skipped=2))


def test_only_steps_in_a_row_count():
    _, history = run([BAD_LOSS, BAD_LOSS, 0, BAD_LOSS, BAD_LOSS, 0], limit=2)
    assert [int(metrics["skipped"]) for metrics in history] == [1, 2, 0, 1, 2, 0]


def test_without_a_limit_the_first_one_stops():
    states, history = run([0, 0, BAD_LOSS, 0], limit=0)
    assert [int(metrics["skipped"]) for metrics in history] == [0, 0, STOPPED, STOPPED]
    assert_equal(states[4].replace(skipped=0), states[2])


def test_finite_steps_are_those_of_any_limit():
    assert_equal(run([0, 0, 0], limit=0), run([0, 0, 0], limit=3))
