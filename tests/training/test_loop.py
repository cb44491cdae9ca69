"""The order of the training loop: a checkpoint before anything is published, and nothing twice after a restart."""

from contextlib import nullcontext
from unittest.mock import Mock

import jax.numpy as jnp
import pytest

from cpnet_jax.errors import UserError
from cpnet_jax.training import loop
from cpnet_jax.training.monitor import Monitor
from cpnet_jax.training.profile import Profile
from cpnet_jax.training.state import TrainState

TOTAL, EVAL_EVERY, CHECKPOINT_EVERY = 6, 2, 3


class Disk:
    """What a run has done and what is on its disk. Steps `too_large` are not evaluated, `broken` ones not published."""

    def __init__(self, broken=(), too_large=()):
        self.events, self.broken, self.too_large = [], set(broken), set(too_large)
        self.saved, self.published, self.trained, self.scored = 0, [], [], set()

    def run(self):
        """Starts from the newest checkpoint, as the program does."""
        start, self.trained = self.saved, self.trained[: self.saved]
        state = TrainState(*[jnp.zeros(())] * len(TrainState.__dataclass_fields__))
        monitor = Mock(spec=Monitor)
        monitor.pause.return_value = lambda: 0.0
        monitor.waiting_for_input.return_value = nullcontext()
        profile, stop = Mock(spec=Profile), Mock(spec=loop.StopRequests)
        profile.step.return_value = nullcontext()
        stop.requested.return_value = False
        loop.train(
            state,
            self._step,
            iter(range(start, TOTAL)),
            start=start,
            total=TOTAL,
            eval_every=EVAL_EVERY,
            checkpoint_every=CHECKPOINT_EVERY,
            published=start == 0 or start in self.published,
            evaluate=self._evaluate,
            save=self._save,
            add_score=self._add_score,
            publish=self._publish,
            check_saves=lambda: None,
            monitor=monitor,
            profile=profile,
            stop=stop,
        )

    def _step(self, state, batch):
        self.events.append("step")
        self.trained.append(batch)
        return state, {}

    def _evaluate(self, state):
        self.events.append("evaluate")
        if len(self.trained) in self.too_large:
            raise UserError("an image does not fit into memory")
        return "figures"

    def _save(self, state, step, evaluation):
        self.events.append("save")
        self.saved = step
        self.scored |= {step} if evaluation else set()

    def _add_score(self, step, evaluation):
        assert evaluation == "figures" and step == self.saved
        self.scored.add(step)

    def _publish(self, evaluation, state, step, seconds):
        self.events.append("publish")
        if step in self.broken:
            raise UserError("cannot write results")
        self.published.append(step)


def test_each_evaluation_is_saved_before_it_is_published():
    disk = Disk()
    disk.run()
    evaluated = ["step", "evaluate", "save", "publish"]
    assert disk.events == ["step", *evaluated, "step", "save", *evaluated, "step", *evaluated]


@pytest.mark.parametrize("step", [2, 4, TOTAL])
def test_a_failure_to_publish_costs_no_step_and_is_made_up_for(step):
    disk = Disk(broken=[step])
    with pytest.raises(UserError):
        disk.run()
    assert disk.saved == step
    disk.broken.clear()
    disk.events.clear()
    disk.run()
    assert disk.events[:2] == ["evaluate", "publish"], "again, and without a second checkpoint"
    assert disk.events.count("step") == TOTAL - step
    assert disk.trained == list(range(TOTAL)) and disk.published == [2, 4, TOTAL]


@pytest.mark.parametrize("step", [2, 4, TOTAL])
def test_an_evaluation_that_fails_costs_no_step_and_is_made_up_for(step):
    disk = Disk(too_large=[step])
    with pytest.raises(UserError, match="memory"):
        disk.run()
    assert disk.saved == step
    with pytest.raises(UserError, match="memory"):
        disk.run()
    assert disk.events[-1] == "evaluate", "the step is saved already"
    assert step not in disk.scored
    disk.too_large.clear()
    disk.run()
    assert disk.scored == {2, 4, TOTAL}
    assert disk.trained == list(range(TOTAL)) and disk.published == [2, 4, TOTAL]


def test_one_of_several_processes_does_not_save_after_a_failed_evaluation(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    disk = Disk(too_large=[2])
    with pytest.raises(UserError, match="memory"):
        disk.run()
    assert disk.events[-1] == "evaluate"


def test_a_published_evaluation_is_not_done_again():
    disk = Disk(broken=[4])
    with pytest.raises(UserError):
        disk.run()
    disk.published.append(4)
    disk.events.clear()
    disk.run()
    assert disk.events[0] == "step"
