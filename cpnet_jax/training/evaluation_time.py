"""Estimates how long the evaluations of a run will still take, for the remaining time that training shows."""

import time


class EvaluationTime:
    """The time of the evaluations that are still to come, each with its checkpoint, report and pictures.

    Args:
      first: the first step that is still to be evaluated, if one is due there.
      total: steps at the end of training.
      every: steps between evaluations; 0: only at the end.
      steps_each: training steps that are expected to take as long as one evaluation, until the first is timed.
    """

    def __init__(self, first: int, total: int, every: int, *, steps_each: float) -> None:
        before_the_last = (total - 1) // every - (first - 1) // every if every else 0
        self._to_come = before_the_last + 1
        self._steps_each = steps_each
        self._seconds_each: float | None = None
        self._began = 0.0

    def begin(self) -> None:
        """Notes that an evaluation begins."""
        self._began = time.monotonic()

    def end(self) -> float:
        """Notes that its results are written; returns the seconds that it took."""
        self._to_come -= 1
        self._seconds_each = time.monotonic() - self._began
        return self._seconds_each

    def left(self, step_seconds: float) -> float:
        """The seconds of all evaluations to come, given those of a training step."""
        each = self._steps_each * step_seconds if self._seconds_each is None else self._seconds_each
        return self._to_come * each
