"""What the training loop watches: finite losses, speed, the figures that are logged and shown."""

import math
import time

import jax

from cpnet_jax.errors import TrainingDiverged
from cpnet_jax.experiment import Experiment
from cpnet_jax.progress import Progress
from cpnet_jax.training.metrics import MetricsWriter


class Monitor:
    """Watches the metrics one step behind the device, so that neither waits for the other.

    Stops the run at the first loss or gradient that is not finite; logs means over `log_every` steps.
    """

    def __init__(self, experiment: Experiment, writer: MetricsWriter, progress: Progress) -> None:
        self._config, self._schedule = experiment.config, experiment.schedule
        self._writer, self._progress = writer, progress
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._window: list[dict[str, float]] = []
        self._clock: float | None = None
        self._compiled = False
        self._rate: float | None = None

    def resume_clock(self) -> None:
        """Time counts towards images/s from here, if it did not already."""
        self._clock = self._clock or time.monotonic()

    def step_taken(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """`metrics` of a step that may still be running."""
        self._read_pending()
        self._pending = step, metrics

    def catch_up(self) -> None:
        """Waits for the last step, and stops the clock: evaluations and checkpoints are no training time."""
        self._read_pending()
        self._clock = None

    def _read_pending(self) -> None:
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrainingDiverged(
                f"step {step}: {', '.join(f'{name} is {values[name]}' for name in bad)}; the checkpoints before it are "
                "intact: lower config.optimizer.base_lr, add config.optimizer.warmup_steps, or clip the gradient"
            )
        self._measure_rate()
        self._window.append(values)
        self._progress.advance(**_figures(values, self._rate))
        if step % self._config.log_every == 0 or step == self._config.total_steps:
            self._log(step)

    def _measure_rate(self) -> None:
        """Images per second, smoothed over the last ten steps or so; unknown at the first step, which compiles."""
        now = time.monotonic()
        rate = self._config.batch_size / (now - self._clock)
        if self._compiled:
            self._rate = rate if self._rate is None else 1 / (0.9 / self._rate + 0.1 / rate)
        self._compiled, self._clock = True, now

    def _log(self, step: int) -> None:
        means = {name: sum(values[name] for values in self._window) / len(self._window) for name in self._window[0]}
        means["lr"] = float(self._schedule(step - 1))  # what the last update was made with
        if self._rate is not None:
            means["images_per_second"] = self._rate
        self._writer.write(step, means)
        self._window = []


def _figures(values: dict[str, float], rate: float | None) -> dict[str, str]:
    """What the progress line shows: the loss, its terms by short names, images/s."""
    affinity = [value for name, value in values.items() if name.startswith("affinity_")]
    shown = {"loss": values["loss"], "seg": values["segmentation"]}
    if "aux" in values:
        shown["aux"] = values["aux"]
    if affinity:
        shown["affinity"] = sum(affinity)
    speed = {} if rate is None else {"img/s": f"{rate:.1f}"}
    return {name: f"{value:.3f}" for name, value in shown.items()} | speed
