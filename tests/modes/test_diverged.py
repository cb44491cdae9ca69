"""What a run that diverged says about the state that it keeps."""

import threading
from types import SimpleNamespace
from unittest.mock import Mock

import jax.numpy as jnp

from configs import quickstart
from cpnet_jax.errors import TrainingDiverged, WriteFailed
from cpnet_jax.modes.train import _diverged
from cpnet_jax.training import checksums
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.monitor import NonFiniteStep
from cpnet_jax.training.state import TrainState

EXPERIMENT = SimpleNamespace(config=quickstart.get_config(), description=dict)


def step_8():
    found = NonFiniteStep(8, "loss nan", ["a", "b"])
    found.state = TrainState(*[jnp.zeros(())] * len(TrainState.__dataclass_fields__))
    return found


def test_a_state_that_cannot_be_kept_is_not_said_to_be(tmp_path, without_shape_checks):
    """Saving is asynchronous: a full disk shows when the write is waited for."""
    found = step_8()
    full = Mock(side_effect=WriteFailed("checkpoints cannot be written (disk full): free space"))
    for failing in ("save", "finish_saving"):
        checkpoints = Mock(spec=Checkpoints, steps=list, **{failing: full})
        error = _diverged(EXPERIMENT, found, checkpoints, tmp_path)
        assert isinstance(error, TrainingDiverged)
        assert "could not be kept (checkpoints cannot be written (disk full): free space)" in str(error)
    assert f"is kept in {tmp_path}/checkpoints/7" in str(
        _diverged(EXPERIMENT, found, Mock(spec=Checkpoints, steps=list), tmp_path)
    )


def test_a_state_whose_checkpoint_is_still_being_written_is_said_to_be_kept(
    tmp_path, monkeypatch, without_shape_checks
):
    found, waited_for, write = step_8(), threading.Event(), checksums.write
    monkeypatch.setattr(checksums, "write", lambda *what, **how: waited_for.wait(60) and write(*what, **how))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(7, found.state, position=7, config={}, miou=None)
        finish = checkpoints.finish_saving
        monkeypatch.setattr(checkpoints, "finish_saving", lambda: (waited_for.set(), finish()))
        assert checkpoints.steps() == []
        assert f"is kept in {tmp_path}/checkpoints/7" in str(_diverged(EXPERIMENT, found, checkpoints, tmp_path))
        assert checkpoints.steps() == [7]
