"""The training loop.

Its order is a contract, which resuming relies on:

    evaluate > save > next(batch) > step

A checkpoint of step t is written after the evaluation of step t and before batch t is taken. So a run that starts from
it has nothing to repeat: it takes batch t and goes on as if it had never stopped.
"""

import json
import math
import time
from pathlib import Path

import jax
import ml_collections

from cpnet_jax import configuration, distributed, files, sharding
from cpnet_jax.errors import TrainingDiverged
from cpnet_jax.evaluation import publish
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.experiment import Experiment
from cpnet_jax.progress import Progress
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.metrics import MetricsWriter
from cpnet_jax.training.state import TrainState

# Images of which every evaluation leaves pictures on TensorBoard.
DRAWN = 4


def train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains to config.total_steps, resuming from the newest checkpoint in the workdir; evaluates at the end.

    Raises:
      UserError: on a mistake in the config or the data, or a workdir that belongs to another config.
      TrainingDiverged: on a loss that is not finite.
    """
    experiment = Experiment(config)
    sharding.on_all(lambda: files.make_folder(workdir, "--workdir"))
    distributed.check_shared(workdir)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state, start = _start(experiment, checkpoints, workdir)
        if start == config.total_steps:
            if sharding.is_main_process():
                print(_finished(workdir, start))
            return
        if sharding.is_main_process():
            files.write_json(workdir / "config.json", experiment.description())
        with MetricsWriter(workdir, start) as writer:
            evaluation = _loop(experiment, state, start, checkpoints, writer, workdir)
    if not sharding.is_main_process():
        return
    print(f"\n{evaluation.table()}\n\n{workdir}/eval.json holds these figures, {workdir}/report/index.html shows them.")


def _start(experiment: Experiment, checkpoints: Checkpoints, workdir: Path) -> tuple[TrainState, int]:
    """The state to go on from, and its step."""
    step = checkpoints.latest()
    if step is None:
        return experiment.initial_state(), 0
    configuration.check_same_run(experiment.description(), checkpoints.config(step), workdir)
    state, position = checkpoints.restore(step, experiment.abstract_state())
    assert position == step, "one global batch is taken a step"
    return state, step


def _loop(
    experiment: Experiment,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    workdir: Path,
) -> Evaluation:
    config, total = experiment.config, experiment.config.total_steps
    train_step = experiment.train_step()
    stream = experiment.train_stream(position=start)
    with stream, Progress(total, "Training", initial=start) as progress:
        monitor = _Monitor(experiment, writer, progress)
        progress.say(_announcement(experiment, start))
        for step in range(start, total + 1):
            last, fresh = step == total, step > start

            # evaluate
            evaluation = None
            if last or (fresh and _due(step, config.eval_every)):
                monitor.catch_up()
                evaluation = experiment.evaluator.evaluate(state)
                _report(evaluation, state, step, experiment, writer, progress, workdir)

            # save
            if fresh and (evaluation is not None or _due(step, config.checkpoint_every)):
                monitor.catch_up()
                checkpoints.save(
                    step,
                    state,
                    position=stream.position,
                    config=experiment.description(),
                    miou=evaluation and evaluation.as_json()["mIoU"],
                )
            if last:
                return evaluation
            monitor.resume_clock()

            # next(batch)
            batch = next(stream)

            # step
            state, metrics = train_step(state, batch)
            monitor.step_taken(step + 1, metrics)
    raise AssertionError("unreachable: the loop ends at its last step")


class _Monitor:
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


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _report(
    evaluation: Evaluation,
    state: TrainState,
    step: int,
    experiment: Experiment,
    writer: MetricsWriter,
    progress: Progress,
    workdir: Path,
) -> None:
    evaluator, config = experiment.evaluator, experiment.config
    losses = evaluator.validation_loss(state)
    if not sharding.is_main_process():
        return
    found = publish.figures(evaluation, evaluator, step)
    means = {name: found[name] for name in ("mIoU", "pixel_accuracy", "mean_accuracy") if found[name] is not None}
    writer.write(step, means | {f"val_{name}": value for name, value in losses.items()})
    files.write_json(workdir / "eval.json", found)
    publish.draw(writer, evaluator, evaluation.dataset, state, step=step, count=min(config.eval.pictures, DRAWN))
    if step == config.total_steps:
        publish.write_all(workdir, evaluation, evaluator, state, step=step, count=config.eval.pictures)
    progress.say(f"Step {step}: {', '.join(f'{name} {100 * value:.2f} %' for name, value in means.items())}")


def _announcement(experiment: Experiment, start: int) -> str:
    config = experiment.config
    begins = f"resuming at step {start} of" if start else "training for"
    count = jax.process_count()
    processes = f" of {count} processes" if count > 1 else ""
    return (
        f"{experiment.mesh.size} {jax.devices()[0].platform.upper()} device(s){processes}, "
        f"{len(experiment.train_records)} training and {len(experiment.evaluator)} evaluation images; {begins} "
        f"{config.total_steps} steps of {config.batch_size}. The first step compiles."
    )


def _finished(workdir: Path, step: int) -> str:
    try:
        found = json.loads((workdir / "eval.json").read_text())
        settings = found["settings"]
        result = f"; eval.json says mIoU {100 * found['mIoU']:.2f} % on {settings['split']} at step {settings['step']}"
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not as this program writes it
        result = ""
    return f"{workdir} is finished: {step} steps{result}. Another --workdir starts anew."
