"""What the training loop watches: finite losses, where the time goes, the figures that are logged and shown."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from cpnet_jax.data.device_batches import DeviceBatches
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime import processes
from cpnet_jax.runtime.progress import Progress
from cpnet_jax.training.metrics import MetricsWriter
from cpnet_jax.training.state import STOPPED

# The progress line shows from which share of the time on the devices stand still for want of input.
NOTED_WAIT = 0.1


class NonFiniteStep(Exception):
    """A step whose figures are not finite, with none left to be skipped.

    Attributes:
      step: which; the state is still the one before it.
      ids: of its batch's examples.
    """

    def __init__(self, step: int, figures: str, ids: list[str]) -> None:
        super().__init__(f"step {step}: {figures}")
        self.step, self.ids = step, ids


@dataclass
class _Pending:
    """A step that may still be running.

    Attributes:
      asked, arrived: when its batch was asked for and when it was there.
      result: its metrics, and when the devices had them.
    """

    step: int
    asked: float
    arrived: float
    result: Future


class Monitor:
    """Watches the metrics one step behind the devices, so that neither waits for the other; logs means over `log_every`
    steps. Use it in a `with`.

    Where the time goes is seen without a synchronisation: a thread waits for each step's metrics and notes when they
    are there. From then on the devices are free, and the time until they begin the next step, as far as its batch had
    been asked for and was not there yet, is `input_seconds`; that from when they could begin a step to its end is
    `step_seconds`. Batches are made while the devices work, so that input that keeps up costs next to nothing.
    """

    def __init__(
        self, experiment: Experiment, writer: MetricsWriter, progress: Progress, batches: DeviceBatches
    ) -> None:
        self._config, self._schedule = experiment.config, experiment.schedule
        self._writer, self._progress, self._batches = writer, progress, batches
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="monitor")
        self._pending: _Pending | None = None
        self._asked = self._arrived = 0.0
        self._free: float | None = None  # since when the devices had nothing to do; None: since before a pause
        self._window: list[dict[str, float]] = []
        self._skipped = 0
        self._compiled = False
        self._period: float | None = None  # seconds a step, and of them without input, smoothed over ten steps or so
        self._waited = 0.0
        self._said: Counter[int] = Counter()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: Any) -> None:
        self._reader.shutdown(cancel_futures=True)

    def next_batch(self) -> Any:
        """From the stream, noting how long that takes."""
        self._asked = time.monotonic()
        batch = next(self._batches)
        self._arrived = time.monotonic()
        return batch

    def step_taken(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """`metrics` of a step that may still be running.

        Raises:
          NonFiniteStep: where those of the step before say that training cannot go on.
        """
        result = self._reader.submit(_read, metrics)
        self._read_pending()
        self._pending = _Pending(step, self._asked, self._arrived, result)

    def catch_up(self) -> None:
        """Waits for the last step; what comes next is no training time. Raises as `step_taken`."""
        self._read_pending()
        self._free = None

    @contextmanager
    def pause(self, what: str, step: int) -> Iterator[None]:
        """Catches up, and logs as `what`_seconds how long training stands still."""
        self.catch_up()
        began = time.monotonic()
        yield
        self._writer.write(step, {f"{what}_seconds": time.monotonic() - began})

    def _read_pending(self) -> None:
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        values, ended = pending.result.result()
        skipped = values.pop("skipped")
        if skipped:
            self._tell_of_non_finite(pending.step, values, stop=skipped == STOPPED)
            values = {}
        self._window.append(values | self._measure(pending, ended))
        self._progress.advance(**self._figures(values))
        if pending.step % self._config.system.log_every == 0 or pending.step == self._config.total_steps:
            self._log(pending.step)

    def _tell_of_non_finite(self, step: int, values: dict[str, float], *, stop: bool) -> None:
        figures = ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
        ids = self._batches.stream.ids(step - 1)
        if stop:
            raise NonFiniteStep(step, figures, ids)
        self._skipped += 1
        self._progress.say(f"Step {step} is skipped: {figures}; its batch: {', '.join(ids)}")

    def _measure(self, pending: _Pending, ended: float) -> dict[str, float]:
        """Where the step's time went; nothing for the first step, which compiles."""
        free = pending.asked if self._free is None else self._free
        wait = max(pending.arrived - max(pending.asked, free), 0.0)
        period, self._free = ended - free, ended
        if not self._compiled:
            self._compiled = True
            return {}
        share = 1.0 if self._period is None else 0.1
        self._period = (1 - share) * (self._period or 0.0) + share * period
        self._waited = (1 - share) * self._waited + share * wait
        return {"input_seconds": wait, "step_seconds": ended - max(pending.arrived, free)}

    def _figures(self, values: dict[str, float]) -> dict[str, str]:
        """What the progress line shows: the loss, its terms by short names, images/s, the wait for input."""
        shown = _losses(values) if values else {"loss": "skipped"}
        if self._period is not None:
            shown["img/s"] = f"{self._config.batch_size / self._period:.1f}"
            if self._waited > NOTED_WAIT * self._period:
                shown["waiting for input"] = f"{self._waited / self._period:.0%}"
        return shown

    def _log(self, step: int) -> None:
        means = _means(self._window)
        means["lr"] = float(self._schedule(step - 1))  # what the last update was made with
        if self._period is not None:
            means["images_per_second"] = self._config.batch_size / self._period
        if self._config.optimizer.skip_nonfinite:
            means["skipped_steps"] = self._skipped
        if self._config.data.on_error == "skip":
            means["replaced_examples"] = self._tell_of_unreadable(last=step == self._config.total_steps)
        self._writer.write(step, means)
        self._window, self._skipped = [], 0

    def _tell_of_unreadable(self, *, last: bool) -> int:
        """Says every unreadable record once; how many examples of all processes were replaced since the last time."""
        found = sum(processes.gather(self._batches.unreadable), Counter())
        for record in sorted(found.keys() - self._said.keys()):
            self._progress.say(f"Replaced by another: {self._batches.stream.why_unreadable(record)}")
        if last and found:
            self._progress.say(
                f"{len(found)} unreadable record(s) were replaced {found.total()} time(s) since the start"
            )
        new, self._said = found.total() - self._said.total(), found
        return new


def _read(metrics: dict[str, jax.Array]) -> tuple[dict[str, float], float]:
    """Waits for them: (values, when they were there)."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    return values, time.monotonic()


def _losses(values: dict[str, float]) -> dict[str, str]:
    affinity = [value for name, value in values.items() if name.startswith("affinity_")]
    shown = {"loss": values["loss"], "seg": values["segmentation"]}
    if "aux" in values:
        shown["aux"] = values["aux"]
    if affinity:
        shown["affinity"] = sum(affinity)
    return {name: f"{value:.3f}" for name, value in shown.items()}


def _means(window: list[dict[str, float]]) -> dict[str, float]:
    """Of every figure, over the steps that have it."""
    names = dict.fromkeys(name for values in window for name in values)
    found = {name: [values[name] for values in window if name in values] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}
