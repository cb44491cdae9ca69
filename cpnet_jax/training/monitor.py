"""Reads the metrics of training steps: stops at non-finite losses, measures time, logs and shows figures."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from cpnet_jax.data.device_batches import DeviceBatches
from cpnet_jax.runtime import processes
from cpnet_jax.runtime.progress import Progress
from cpnet_jax.training.metrics import MetricsWriter
from cpnet_jax.training.state import STOPPED

# Share of the time that devices wait for input from which the progress line mentions it.
NOTED_WAIT = 0.1


class NonFiniteStep(Exception):
    """A step with a non-finite loss or gradient that may not be skipped any more.

    Attributes:
      step: its number, counted from 1; it has not changed the state.
      ids: ids of the examples in its batch.
      state: the state before it, set by the training loop.
    """

    state: Any = None  # a TrainState

    def __init__(self, step: int, figures: str, ids: list[str]) -> None:
        super().__init__(f"step {step}: {figures}")
        self.step, self.ids = step, ids


@dataclass
class _Pending:
    """A step that may still be running on the devices.

    Attributes:
      step: its number, counted from 1.
      asked: when its batch was asked for, in seconds of `time.monotonic`.
      arrived: when its batch was there.
      result: its metrics, and when they were there.
    """

    step: int
    asked: float
    arrived: float
    result: Future


class Monitor:
    """Reads the metrics one step behind the devices, so that neither waits for the other. A context manager.

    Logs the mean of each figure over `log_every` steps.

    Time is measured without synchronising: a thread waits for the metrics of each step and notes when they arrive.
    `input_seconds` is the time that the devices then wait for a batch that was asked for and is not there yet.
    `step_seconds` is the time from when the devices could begin a step to its end.

    Args:
      writer: takes the logged figures.
      progress: shows the latest figures.
      batches: names the examples of a batch and counts unreadable records.
      batch_size: examples in a global batch.
      total_steps: steps at the end of training.
      log_every: steps between logged entries.
      learning_rate: step -> learning rate.
      counts_skipped: whether to log how many steps were skipped.
      counts_replaced: whether to log how many unreadable examples were replaced.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        progress: Progress,
        batches: DeviceBatches,
        *,
        batch_size: int,
        total_steps: int,
        log_every: int,
        learning_rate: Callable[[int], Any],
        counts_skipped: bool = False,
        counts_replaced: bool = False,
    ) -> None:
        self._writer, self._progress, self._batches = writer, progress, batches
        self._batch_size, self._total_steps, self._log_every = batch_size, total_steps, log_every
        self._learning_rate = learning_rate
        self._counts_skipped, self._counts_replaced = counts_skipped, counts_replaced
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="monitor")
        self._pending: _Pending | None = None
        self._asked = self._arrived = 0.0
        self._free: float | None = None  # since when the devices have been idle; None: since before a pause
        self._window: list[dict[str, float]] = []
        self._skipped = 0
        self._compiled = False
        self._period: float | None = None  # seconds a step, smoothed over about ten steps
        self._waited = 0.0  # seconds of those without input
        self._reported: Counter[int] = Counter()  # record -> times that its replacement has been counted

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: Any) -> None:
        self._reader.shutdown(cancel_futures=True)

    @contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """Measures how long the next batch takes to arrive."""
        self._asked = time.monotonic()
        yield
        self._arrived = time.monotonic()

    def step_taken(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes the metrics of a step that may still be running, and reads those of the step before.

        Raises:
          NonFiniteStep: if the step before ends the training.
        """
        result = self._reader.submit(_read, metrics)
        self._read_pending()
        self._pending = _Pending(step, self._asked, self._arrived, result)

    def catch_up(self) -> None:
        """Waits for the last step; time from here to the next step is not training time. Raises as `step_taken`."""
        self._read_pending()
        self._free = None

    def pause(self) -> Callable[[], float]:
        """Catches up as `catch_up`; returns a function that returns the seconds since then."""
        self.catch_up()
        began = time.monotonic()
        return lambda: time.monotonic() - began

    def log(self, step: int, values: dict[str, float]) -> None:
        """Writes further figures of a step."""
        self._writer.write(step, values)

    def _read_pending(self) -> None:
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        values, ended = pending.result.result()
        skipped = values.pop("skipped")
        if skipped:
            self._report_non_finite(pending.step, values, stop=skipped == STOPPED)
            values = {}
        self._window.append(values | self._measure(pending, ended))
        self._progress.advance(**self._figures(values))
        if pending.step % self._log_every == 0 or pending.step == self._total_steps:
            self._log(pending.step)

    def _report_non_finite(self, step: int, values: dict[str, float], *, stop: bool) -> None:
        figures = ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
        ids = self._batches.stream.ids(step - 1)
        if stop:
            raise NonFiniteStep(step, figures, ids)
        self._skipped += 1
        self._progress.say(f"Step {step} is skipped: {figures}; its batch: {', '.join(ids)}")

    def _measure(self, pending: _Pending, ended: float) -> dict[str, float]:
        """Where the step's time went. The first step is measured apart, because it compiles."""
        free = pending.asked if self._free is None else self._free
        wait = max(pending.arrived - max(pending.asked, free), 0.0)
        period, self._free = ended - free, ended
        if not self._compiled:
            self._compiled = True
            return {"first_step_seconds": ended - pending.asked}
        share = 1.0 if self._period is None else 0.1
        self._period = (1 - share) * (self._period or 0.0) + share * period
        self._waited = (1 - share) * self._waited + share * wait
        return {"input_seconds": wait, "step_seconds": ended - max(pending.arrived, free)}

    def _figures(self, values: dict[str, float]) -> dict[str, str]:
        """Figures for the progress line: the loss, its terms by short names, images/s, the wait for input."""
        shown = _losses(values) if values else {"loss": "skipped"}
        if self._period is not None:
            shown["img/s"] = f"{self._batch_size / self._period:.1f}"
            if self._waited > NOTED_WAIT * self._period:
                shown["waiting for input"] = f"{self._waited / self._period:.0%}"
        return shown

    def _log(self, step: int) -> None:
        means = _means(self._window)
        means["lr"] = float(self._learning_rate(step - 1))  # of the last update
        if self._period is not None:
            means["images_per_second"] = self._batch_size / self._period
        if self._counts_skipped:
            means["skipped_steps"] = self._skipped
        if self._counts_replaced:
            means["replaced_examples"] = self._report_unreadable(last=step == self._total_steps)
        self._writer.write(step, means)
        self._window, self._skipped = [], 0

    def _report_unreadable(self, *, last: bool) -> int:
        """Prints each unreadable record once; returns how many examples were replaced since the last call, in all
        processes."""
        found = sum(processes.gather(self._batches.unreadable), Counter())
        for record in sorted(found.keys() - self._reported.keys()):
            self._progress.say(f"Replaced by another: {self._batches.stream.why_unreadable(record)}")
        if last and found:
            self._progress.say(
                f"{len(found)} unreadable record(s) were replaced {found.total()} time(s) since the start"
            )
        new, self._reported = found.total() - self._reported.total(), found
        return new


def _read(metrics: dict[str, jax.Array]) -> tuple[dict[str, float], float]:
    """Waits for the metrics; returns (values, when they arrived)."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    return values, time.monotonic()


def _losses(values: dict[str, float]) -> dict[str, str]:
    affinity = [value for name, value in values.items() if name.startswith("affinity_")]
    shown = {"loss": values["loss"], "seg": values["segmentation"]}
    if "aux" in values:
        shown["aux"] = values["aux"]
    if affinity:
        shown["affinity"] = sum(affinity)
    figures = {name: f"{value:.3f}" for name, value in shown.items()}
    # Rounded up, so that a few rows are not shown as none.
    clamped = math.ceil(100 * values.get("clamped_rows", 0.0))
    return figures | ({"clamped rows": f"{clamped} %"} if clamped else {})


def _means(window: list[dict[str, float]]) -> dict[str, float]:
    """The mean of every figure over the steps that have it."""
    names = dict.fromkeys(name for values in window for name in values)
    found = {name: [values[name] for values in window if name in values] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}
