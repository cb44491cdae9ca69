"""Which checkpoints are kept, also across a restart."""

import subprocess
import sys
import threading
from unittest.mock import Mock

import jax.numpy as jnp
import pytest

from cpnet_jax.runtime import processes
from cpnet_jax.training import checksums
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


@pytest.mark.parametrize("restart", [False, True])
def test_a_step_evaluated_after_a_restart_can_be_the_best(tmp_path, restart):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 0.2)
    save(checkpoints, 2)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.add_miou(2, 0.6)
    if restart:
        checkpoints.close()
        checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.damaged and checkpoints.best() == 2
    checkpoints.add_miou(2, 0.9)
    save(checkpoints, 3, 0.7)
    save(checkpoints, 4, 0.1)
    assert checkpoints.best() == 3, "0.6 stays, as saved first"
    checkpoints.close()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [3, 4]


def test_all_processes_agree_whether_a_step_has_its_miou(tmp_path, monkeypatch):
    """A slow process may see the mIoU that process 0 has just written: it takes part in the same collectives."""
    gather = Mock(wraps=processes.gather)
    monkeypatch.setattr(processes, "gather", gather)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        checkpoints.finish_saving()
        gather.reset_mock()
        checkpoints.add_miou(1, 0.6)
        first = gather.call_count
        checkpoints.add_miou(1, 0.6)
        assert gather.call_count == 2 * first > 0


def test_the_best_step_is_kept_although_its_miou_came_later(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 0.2)
        save(checkpoints, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.add_miou(2, 0.6)
        save(checkpoints, 3, 0.5)
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.damaged and checkpoints.steps() == [2, 3] and checkpoints.best() == 2


def test_a_run_has_begun_while_its_first_checkpoint_is_written(tmp_path, monkeypatch):
    released, write = threading.Event(), checksums.write
    monkeypatch.setattr(checksums, "write", lambda *what, **how: released.wait(60) and write(*what, **how))
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.begun()
        save(checkpoints, 1)
        assert checkpoints.begun() and checkpoints.steps() == []
        released.set()
        checkpoints.finish_saving()
        assert checkpoints.begun() and checkpoints.steps() == [1]


def test_a_damaged_step_that_was_saved_again_is_a_step(tmp_path):
    for step in (1, 2):
        with Checkpoints(tmp_path) as checkpoints:
            save(checkpoints, step, 1 / step)
    (tmp_path / "2" / "data" / "metadata").write_bytes(b"{}")
    with Checkpoints(tmp_path) as checkpoints:
        assert list(checkpoints.damaged) == [2] and checkpoints.steps() == [1]
        save(checkpoints, 2)
        checkpoints.finish_saving()
        assert not checkpoints.damaged and checkpoints.latest() == 2


def test_a_checkpoint_is_read_in_a_folder_that_looks_like_a_pattern(tmp_path):
    """Saving there is refused: see `files.check_is_no_pattern`."""
    with Checkpoints(tmp_path / "run") as checkpoints:
        save(checkpoints, 3)
    moved = (tmp_path / "run").rename(tmp_path / "run [1]")
    with Checkpoints(moved, read_only=True) as checkpoints:
        assert checkpoints.restore_as_saved(3)["x"].tolist() == [3, 3, 3]


def test_state_position_and_config_come_back_together(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 7)
    with Checkpoints(tmp_path) as checkpoints:
        state, position = checkpoints.restore(7, {"x": jnp.zeros(3, jnp.int32)})
        assert position == 7 and checkpoints.config(7) == {"seed": 0}
        assert state["x"].tolist() == [7, 7, 7]


FULL_DISK = """
import resource, signal, sys
import jax.numpy as jnp
import numpy as np
from absl import logging
from cpnet_jax.errors import WriteFailed
from cpnet_jax.training.checkpoint import Checkpoints

logging.set_verbosity(logging.FATAL)  # as the program does
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
state = {f"a{seed}": jnp.asarray(np.random.default_rng(seed).normal(size=(300, 100))) for seed in range(100)}
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with Checkpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(1, state, position=1, config={}, miou=None)
except WriteFailed as error:
    print(error)
"""


def test_a_write_that_fails_prints_nothing_but_its_sentence(tmp_path):
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path / "checkpoints")]
    result = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert "checkpoints/1 could not be written (File too large); no checkpoint exists" in result.stdout
    assert result.returncode == 0 and result.stderr == ""
