"""Traces chosen training steps with JAX's profiler."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from cpnet_jax.runtime.files import AnyPath


class Profile:
    """Writes one trace of the chosen steps to FOLDER/plugins/profile. A context manager.

    TensorBoard finds the trace there; the file `*.trace.json.gz` is for Perfetto. Without steps it does nothing.

    Args:
      steps: the steps to trace, counted from 1.
      begin: steps taken before this run.
      end: the last step of this run.
      folder: the folder of TensorBoard.
      say: prints a line.
    """

    def __init__(self, steps: range, *, begin: int, end: int, folder: AnyPath, say: Callable[[str], None]) -> None:
        self._steps = range(max(steps.start, begin + 1), min(steps.stop, end + 1))
        self._folder, self._say = folder, say
        self._first: int | None = None  # step of the current trace
        self._last = 0
        if steps and len(self._steps) < len(steps):
            traced = f"only {self._steps[0]} to {self._steps[-1]} are" if self._steps else "none of them is"
            say(
                f"config.system.profile_steps asks for the steps {steps[0]} to {steps[-1]}, and this run takes "
                f"{begin + 1} to {end}: {traced} traced"
            )

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    @contextmanager
    def step(self, step: int, finish: Callable[[], None]) -> Iterator[None]:
        """Context of one step; `finish` waits until the devices have completed it."""
        if step not in self._steps:
            yield
            return
        if self._first is None:
            finish()  # so that the trace does not begin with the end of the step before
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
