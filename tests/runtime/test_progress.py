"""The remaining time that a progress line shows: steps, and the work that interrupts or follows them."""

import pytest

from cpnet_jax.runtime import progress
from cpnet_jax.runtime.progress import Progress
from cpnet_jax.training.evaluation_time import EvaluationTime


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves; every step prints its line."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    return seconds


def test_the_remaining_time_includes_evaluations_guessed_and_then_measured(clock, capsys):
    """10 steps of 2 s, evaluated after 4, 8 and 10; one takes 20 s and was guessed to take 3 steps."""
    evaluations = EvaluationTime(1, 10, 4, steps_each=3)
    shown = Progress(10, "Training", further=evaluations.left)
    for step in range(1, 11):
        clock[0] += 100 if step == 1 else 2  # the first step compiles
        shown.advance()
        if step in (4, 8, 10):
            evaluations.begin()
            clock[0] += 20
            shown.leave_out(evaluations.end())
    lefts = [line.split(", ")[1] for line in capsys.readouterr().err.splitlines()[1:]]
    seconds = [8 * 2 + 3 * 6, 7 * 2 + 3 * 6, 6 * 2 + 3 * 6, *(2 * (10 - step) + 20 * 2 for step in range(5, 9)), 22, 20]
    assert lefts == [f"00:{left:02} left" for left in seconds]


@pytest.mark.parametrize(
    ("first", "total", "every", "count"),
    [(1, 10, 0, 1), (1, 10, 5, 2), (5, 10, 5, 2), (6, 10, 5, 1), (10, 10, 5, 1), (1, 11, 5, 3), (11, 11, 5, 1)],
)
def test_every_evaluation_to_come_is_counted(first, total, every, count):
    assert EvaluationTime(first, total, every, steps_each=1).left(1.0) == count


def test_work_that_begins_is_shown_before_its_first_step(capsys):
    assert list(progress.track([1, 2], "Evaluating", total=2, announce=True)) == [1, 2]
    assert capsys.readouterr().err.splitlines()[0] == "Evaluating image 0/2"
