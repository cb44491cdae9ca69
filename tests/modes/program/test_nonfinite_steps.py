"""A run whose loss is not finite stops with its last good state, or goes on up to a limit."""

import math

import jax
import numpy as np
import pytest
from whole_program import command, read_metrics, run

from cpnet_jax.training.checkpoint import Checkpoints

DIVERGING = ("--config.optimizer.base_lr=1e6", "--config.eval_every=0", "--config.checkpoint_every=100")


@pytest.fixture(scope="module")
def diverged(folder):
    workdir = folder / "diverged"
    return workdir, run(*command(folder, workdir, *DIVERGING))


def test_a_loss_that_is_not_finite_stops_the_run_names_step_and_examples_and_keeps_the_last_good_state(diverged):
    workdir, result = diverged
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    named = int(line.split("error: step ")[1].split(":")[0])
    ids = line.split("the examples ")[1].split(", ")
    assert len(set(ids)) == 4 and set(ids) <= {f"train_{index}" for index in range(12)}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest() == named - 1 > 0
        assert str(workdir / "checkpoints" / str(named - 1)) in line
        state = checkpoints.restore_as_saved(named - 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state["params"]))
    assert int(state["step"]) == named - 1 and state["skipped"] == 0


def test_a_run_goes_on_past_steps_that_are_not_finite_up_to_the_limit(folder, diverged):
    workdir, first = diverged
    stopped = int(first.stderr.split("error: step ")[1].split(":")[0])
    result = run(*command(folder, workdir, *DIVERGING, "--config.optimizer.skip_nonfinite=2"))
    assert result.returncode == 3 and f"error: step {stopped + 2}: " in result.stderr
    said = [line for line in result.stdout.splitlines() if "is skipped" in line]
    assert [line.split()[1] for line in said] == [str(stopped), str(stopped + 1)]
    assert said[0].split("its batch: ")[1] == first.stderr.strip().split("the examples ")[1], "the very same batch"
    assert [line["skipped_steps"] for line in read_metrics(workdir) if "skipped_steps" in line] == [1, 1]
    assert all(math.isfinite(value) for line in read_metrics(workdir) for value in line.values())
