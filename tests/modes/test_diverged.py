"""What a run that diverged says about the state that it keeps."""

from types import SimpleNamespace
from unittest.mock import Mock

import jax.numpy as jnp

from configs import quickstart
from cpnet_jax.errors import TrainingDiverged, WriteFailed
from cpnet_jax.modes.train import _diverged
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.monitor import NonFiniteStep
from cpnet_jax.training.state import TrainState


def test_a_state_that_cannot_be_kept_is_not_said_to_be(tmp_path, without_shape_checks):
    """Saving is asynchronous: a full disk shows when the write is waited for."""
    found = NonFiniteStep(8, "loss nan", ["a", "b"])
    found.state = TrainState(*[jnp.zeros(())] * len(TrainState.__dataclass_fields__))
    experiment = SimpleNamespace(config=quickstart.get_config(), description=dict)
    full = Mock(side_effect=WriteFailed("checkpoints cannot be written (disk full): free space"))
    for failing in ("save", "finish_saving"):
        checkpoints = Mock(spec=Checkpoints, steps=list, **{failing: full})
        error = _diverged(experiment, found, checkpoints, tmp_path)
        assert isinstance(error, TrainingDiverged)
        assert "could not be kept (checkpoints cannot be written (disk full): free space)" in str(error)
    assert f"is kept in {tmp_path}/checkpoints/7" in str(
        _diverged(experiment, found, Mock(spec=Checkpoints, steps=list), tmp_path)
    )
