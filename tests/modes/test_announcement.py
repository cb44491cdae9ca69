"""What training says when it starts."""

from unittest.mock import Mock

import pytest

from configs import folder
from cpnet_jax.config.check import resolve_durations
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.modes.train import _announcement


def announced(**fields):
    config = folder.get_config()
    config.update_from_flattened_dict({"batch_size": 8} | fields)
    resolve_durations(config, num_train=80)
    return _announcement(Mock(spec=Experiment, config=config, train_records=range(80), evaluator=range(20)), 0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"total_steps": 40}, "warmup_steps"), ({"total_epochs": 4.0, "optimizer.warmup_epochs": 5.0}, "warmup_epochs")],
)
def test_a_schedule_that_never_reaches_its_rate_is_said(fields, named):
    _, note = announced(**fields).splitlines()
    assert note.startswith("Note: training ends at step 40, within the warm-up of 50 steps")
    assert f"config.optimizer.{named} shortens" in note


def test_a_schedule_that_reaches_its_rate_needs_no_note():
    assert "Note" not in announced() + announced(total_steps=50)
