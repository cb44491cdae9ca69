"""Traces of chosen steps, by JAX's profiler."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax


class Profile:
    """Writes one trace of the steps asked for to FOLDER/plugins/profile, where TensorBoard looks for it; the
    `*.trace.json.gz` there is for Perfetto. Use it in a `with`; where no steps are asked for it does nothing.

    Args:
      steps: counted from 1, without gaps.
      begin, end: steps before and after the run, which it takes from `begin` + 1 to `end`.
      folder: of TensorBoard.
      say: takes a line for people.
    """

    def __init__(self, steps: range, *, begin: int, end: int, folder: Path, say: Callable[[str], None]) -> None:
        self._steps = range(max(steps.start, begin + 1), min(steps.stop, end + 1))
        self._folder, self._say = folder, say
        self._first: int | None = None  # of the trace being taken
        self._last = 0
        if steps and len(self._steps) < len(steps):
            traced = f"only {self._steps[0]} to {self._steps[-1]} are" if self._steps else "none is"
            say(
                f"config.system.profile_steps asks for the steps {steps[0]} to {steps[-1]}, and this run takes {begin + 1} to "
                f"{end}: {traced} traced"
            )

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    @contextmanager
    def step(self, step: int, finish: Callable[[], None]) -> Iterator[None]:
        """Around all that belongs to a step; `finish` waits until the devices have done it."""
        if step not in self._steps:
            yield
            return
        if self._first is None:
            finish()  # the trace begins with its first step, not with the end of the one before
            jax.profiler.start_trace(self._folder)
            self._first = step
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        self._last = step
        if step == self._steps[-1]:
            finish()
            self._stop()

    def _stop(self) -> None:
        if self._first is None:
            return
        jax.profiler.stop_trace()
        self._say(f"Trace of the steps {self._first} to {self._last}: {self._folder}/plugins/profile")
        self._first = None
