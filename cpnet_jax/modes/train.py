"""--mode=train: trains a network or resumes its training, evaluates it, and writes everything to the workdir."""

import json
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import ml_collections

from cpnet_jax import sharding
from cpnet_jax.config.check import profiled_steps
from cpnet_jax.config.same_run import check_same_run
from cpnet_jax.data.device_batches import DeviceBatches
from cpnet_jax.errors import TrainingDiverged
from cpnet_jax.evaluation import publish
from cpnet_jax.evaluation.evaluator import Validation
from cpnet_jax.modes import Call
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime import distributed, files, processes
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.progress import Progress
from cpnet_jax.runtime.signals import Stop
from cpnet_jax.training import loop
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.metrics import MetricsWriter
from cpnet_jax.training.monitor import Monitor, NonFiniteStep
from cpnet_jax.training.profile import Profile
from cpnet_jax.training.state import TrainState
from cpnet_jax.training.workdir_lock import locked

# Images that every evaluation draws on TensorBoard.
TENSORBOARD_IMAGES = 4


def run(call: Call) -> None:
    train(call.config, call.workdir, call.stop)


def train(config: ml_collections.ConfigDict, workdir: AnyPath, stop: Stop) -> None:
    """Trains to config.total_steps, from the newest whole checkpoint in the workdir if there is one.

    Raises:
      Stopped: on a request to stop before the end; all steps are saved.
      UserError: if the config or the data cannot work, or the workdir belongs to a run with another config.
      TrainingDiverged: on a non-finite loss or gradient.
    """
    experiment = Experiment(config, compile_step=True)
    processes.on_all(lambda: files.make_folder(workdir, "--workdir"))
    distributed.check_shared(workdir)
    with locked(workdir), Checkpoints(workdir / "checkpoints") as checkpoints:
        state, start = _start(experiment, checkpoints, workdir)
        if start == config.total_steps:
            _print(_finished(workdir, start))
            return
        if processes.is_main_process():
            files.write_json(workdir / "config.json", experiment.description())
        with MetricsWriter(workdir, start) as writer:
            evaluation = _train(experiment, state, start, checkpoints, writer, workdir, stop).evaluation
    _print(
        f"\n{evaluation.table()}\n\n{workdir}/eval.json holds these figures, {workdir}/report/index.html shows them."
    )


def _start(experiment: Experiment, checkpoints: Checkpoints, workdir: AnyPath) -> tuple[TrainState, int]:
    """The state to continue from, and its step."""
    step = checkpoints.latest()
    if step is None:
        return experiment.initial_state(), 0
    check_same_run(experiment.description(), checkpoints.config(step), workdir)
    state, position = checkpoints.restore(step, experiment.abstract_state())
    assert position == step, "one global batch is taken a step"
    if experiment.config.init.backbone or experiment.config.init.checkpoint:
        _print(f"config.init is ignored: {workdir} continues from its checkpoint of step {step}.")
    return state, step


def _train(
    experiment: Experiment,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    workdir: AnyPath,
    stop: Stop,
) -> Validation:
    """Connects the training loop to its parts; returns the last evaluation."""
    config, total = experiment.config, experiment.config.total_steps
    if not sharding.is_on_cpus(experiment.mesh):  # there, compiling would take the cores that a step uses
        experiment.evaluator.start_compiling(experiment.abstract_state)
    batches = experiment.train_stream(position=start)
    progress = Progress(total, "Training", initial=start)
    monitor = Monitor(
        writer,
        progress,
        batches,
        batch_size=config.batch_size,
        total_steps=total,
        log_every=config.system.log_every,
        learning_rate=experiment.schedule,
        counts_skipped=bool(config.optimizer.skip_nonfinite),
        counts_replaced=config.data.on_error == "skip",
    )
    profile = Profile(profiled_steps(config), begin=start, end=total, folder=workdir / "tensorboard", say=progress.say)

    with batches, progress, monitor, profile:
        progress.say(_announcement(experiment, start))
        try:
            return loop.train(
                state,
                experiment.train_step(),
                batches,
                start=start,
                total=total,
                eval_every=config.eval_every,
                checkpoint_every=config.checkpoint_every,
                evaluate=experiment.evaluator.validate,
                report=partial(_report, experiment, writer, progress, workdir),
                save=partial(_save, experiment, checkpoints, batches),
                check_saves=checkpoints.check,
                monitor=monitor,
                profile=profile,
                stop=stop,
            )
        except NonFiniteStep as found:
            raise _diverged(experiment, found, checkpoints, workdir) from found


def _save(
    experiment: Experiment,
    checkpoints: Checkpoints,
    batches: DeviceBatches,
    state: TrainState,
    step: int,
    validation: Validation | None,
) -> None:
    """Starts writing a checkpoint."""
    miou = validation.evaluation.as_json()["mIoU"] if validation else None
    checkpoints.save(step, state, position=batches.position, config=experiment.description(), miou=miou)


def _report(
    experiment: Experiment,
    writer: MetricsWriter,
    progress: Progress,
    workdir: AnyPath,
    validation: Validation,
    state: TrainState,
    step: int,
) -> None:
    """Publishes an evaluation: eval.json, metrics and TensorBoard; after the last step also the report."""
    evaluator, config = experiment.evaluator, experiment.config
    evaluation, losses = validation
    if not processes.is_main_process():
        return
    found = publish.figures(evaluation, evaluator, step)
    means = evaluation.logged()
    writer.write(step, means | {f"val_{name}": value for name, value in losses.items()})
    files.write_json(workdir / "eval.json", found)
    count = min(config.eval.pictures, TENSORBOARD_IMAGES)
    show = partial(writer.picture, step=step)
    publish.draw(show, evaluator, evaluation.dataset, state, count=count)
    if step == config.total_steps:
        publish.write_all(workdir, evaluation, evaluator, state, step=step, count=config.eval.pictures)
    progress.say(f"Step {step}: {', '.join(f'{name} {100 * value:.2f} %' for name, value in means.items())}")


def _diverged(
    experiment: Experiment, found: NonFiniteStep, checkpoints: Checkpoints, workdir: AnyPath
) -> TrainingDiverged:
    """Saves the state before the non-finite step; returns the error to raise."""
    step, limit = found.step - 1, experiment.config.optimizer.skip_nonfinite
    if step == 0:
        kept = "no step came before it"
    else:
        if step not in checkpoints.steps():
            # With this count, a run that resumes with the same limit stops at the same step again.
            good = replace(found.state, skipped=jnp.full_like(found.state.skipped, limit))
            checkpoints.save(step, good, position=step, config=experiment.description(), miou=None)
        kept = f"the state before it is kept in {workdir}/checkpoints/{step}"
    return TrainingDiverged(
        f"{found}; {kept}. To skip it, run again with config.optimizer.skip_nonfinite above {limit}. To start over, "
        "name another --workdir with a lower config.optimizer.base_lr, with config.optimizer.warmup_steps or with "
        f"config.optimizer.clip_global_norm. Its batch held the examples {', '.join(found.ids)}"
    )


def _announcement(experiment: Experiment, start: int) -> str:
    config = experiment.config
    begins = f"resuming at step {start} of" if start else "training for"
    return (
        f"{len(experiment.train_records)} training and {len(experiment.evaluator)} evaluation images; {begins} "
        f"{config.total_steps} steps of {config.batch_size}. The first step compiles, unless it is in the cache."
    )


def _finished(workdir: AnyPath, step: int) -> str:
    try:
        found = json.loads((workdir / "eval.json").read_text())
        settings = found["settings"]
        result = f"; eval.json says mIoU {100 * found['mIoU']:.2f} % on {settings['split']} at step {settings['step']}"
    except (OSError, ValueError, KeyError, TypeError):  # missing, or not written by this program
        result = ""
    return f"{workdir} is finished: {step} steps{result}. Name another --workdir to start a new run."


def _print(line: str) -> None:
    """Prints on the main process only."""
    if processes.is_main_process():
        print(line)
