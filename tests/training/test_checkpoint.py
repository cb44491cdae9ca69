"""Which checkpoints are kept, also across a restart."""

import jax
import jax.numpy as jnp
import pytest

from cpnet_jax.training.checkpoint import Checkpoints


def save(checkpoints, step, miou=None):
    checkpoints.save(step, {"x": jnp.full(3, step)}, position=step, config={"seed": 0}, miou=miou)


@pytest.mark.parametrize("restart", [False, True])
def test_the_latest_and_the_best_are_kept_and_no_other(tmp_path, restart):
    checkpoints = Checkpoints(tmp_path)
    for step, miou in ((1, 0.2), (2, 0.6), (3, None), (4, 0.5), (5, None)):
        save(checkpoints, step, miou)
        if restart:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path)
    checkpoints.close()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 5]
        assert (checkpoints.best(), checkpoints.latest()) == (2, 5)


def test_a_better_one_replaces_the_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, miou in ((1, 0.6), (2, 0.7), (3, 0.1)):
            save(checkpoints, step, miou)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 3]


def test_without_an_evaluation_the_best_is_the_latest(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best() is None
        save(checkpoints, 1)
        save(checkpoints, 2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2]
        assert checkpoints.best() == 2


def test_state_position_and_config_come_back_together(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 7)
    with Checkpoints(tmp_path) as checkpoints:
        state, position = checkpoints.restore(7, jax.tree.map(jnp.zeros_like, {"x": jnp.zeros(3)}))
        assert position == 7 and checkpoints.config(7) == {"seed": 0}
        assert state["x"].tolist() == [7, 7, 7]
