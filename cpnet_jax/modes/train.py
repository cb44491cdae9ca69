"""--mode=train: trains a network or resumes its training, evaluates it, and writes everything to the workdir."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.check import profiled_steps
from cpnet_jax.config.same_run import check_same_run
from cpnet_jax.data.device_batches import DeviceBatches
from cpnet_jax.errors import TrainingDiverged, UserError, WriteFailed, reason
from cpnet_jax.evaluation import publish
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.evaluation.evaluator import Validation
from cpnet_jax.evaluation.report import frequent_confusions, prior, read_training, times
from cpnet_jax.inference.metadata import check_resumable
from cpnet_jax.modes import Call
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime import distributed, files, memory, processes
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.progress import Progress, on_terminal
from cpnet_jax.runtime.signals import Stop
from cpnet_jax.training import loop, starts
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.evaluation_time import EvaluationTime
from cpnet_jax.training.metrics import EVALUATED, PUBLISHING, MetricsWriter, entries, is_published
from cpnet_jax.training.monitor import Monitor, NonFiniteStep
from cpnet_jax.training.profile import Profile
from cpnet_jax.training.state import TrainState
from cpnet_jax.training.workdir_lock import locked
from cpnet_jax.weights.start import check_exists

# Images that every evaluation draws on TensorBoard.
TENSORBOARD_IMAGES = 4
# Pairs of classes that a terminal shows at the end.
CONFUSIONS = 3


def run(call: Call) -> None:
    train(call.config, call.workdir, call.stop)


def train(config: ml_collections.ConfigDict, workdir: AnyPath, stop: Stop) -> None:
    """Trains to config.total_steps, from the newest whole checkpoint in the workdir if there is one.

    Raises:
      Stopped: on a request to stop before the end; all steps are saved.
      UserError: if the config or the data cannot work, a device has too little memory, or the workdir belongs to a run
        with another config.
      TrainingDiverged: on a non-finite loss or gradient.
    """
    processes.from_main(partial(_check_start, config, workdir))
    experiment = Experiment(config, compile_step=True)
    processes.on_all(lambda: files.make_folder(workdir, "--workdir"))
    distributed.check_shared(workdir)
    with locked(workdir), Checkpoints(workdir / "checkpoints") as checkpoints, _explaining_memory(config, checkpoints):
        state, start = _start(experiment, checkpoints, workdir)
        last = start == config.total_steps
        published = start == 0 or processes.from_main(lambda: _is_published(workdir, start, last=last))
        if last and published:
            _print(_finished(workdir, start))
            return
        processes.on_all(lambda: _record_start(experiment, workdir, start) if processes.is_main_process() else None)
        with MetricsWriter(workdir, start, on_failure=stop.request) as writer:
            _train(experiment, state, start, checkpoints, writer, workdir, stop, published=published)
    _print(f"{workdir}/eval.json holds these figures, {workdir}/report/index.html shows them.")


@contextmanager
def _explaining_memory(config: ml_collections.ConfigDict, checkpoints: Checkpoints) -> Iterator[None]:
    """Turns a device's lack of memory into a UserError with the fields that help."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not memory.is_lacking(error):
            raise
        raise UserError(
            f"the memory of a device is not enough to train on {config.batch_size} images with {jax.device_count()} "
            f"device(s) ({reason(error).rstrip('.')}): {_less_memory(config, begun=checkpoints.begun())}"
        ) from error


def _less_memory(config: ml_collections.ConfigDict, *, begun: bool) -> str:
    """Advice; a run that has begun keeps its batches."""
    ways = [] if config.system.remat == "blocks" else ["give --config.system.remat=blocks"]
    fewer = config.batch_size // 2
    if not begun and fewer and fewer % (jax.device_count() * config.optimizer.accumulate) == 0:
        ways.append(f"give --config.batch_size={fewer}")
    return ", or ".join([*ways, "use devices with more memory"])


def _check_start(config: ml_collections.ConfigDict, workdir: AnyPath) -> None:
    """Raises UserError if a run cannot save or start, before anything is prepared or written."""
    files.check_is_no_pattern(workdir, "--workdir")
    if not (workdir / "checkpoints").exists():
        check_exists(build.backbone_file(config), config.init.checkpoint)


def _start(experiment: Experiment, checkpoints: Checkpoints, workdir: AnyPath) -> tuple[TrainState, int]:
    """The state to continue from, and its step."""
    step = checkpoints.latest()
    if step is None:
        if checkpoints.damaged and processes.is_main_process():
            print(f"Note: {workdir} has no whole checkpoint left: training starts again at step 0", flush=True)
        return experiment.initial_state(), 0
    saved = checkpoints.config(step)
    try:
        check_resumable(saved)
    except Exception as error:  # values of other types break the checks in any way
        raise UserError(
            f"{workdir}/checkpoints/{step} cannot be used ({reason(error)}): move it away, then run the same command "
            "again to use an older checkpoint"
        ) from error
    check_same_run(experiment.description(), saved, workdir)
    total = experiment.config.total_steps
    if step > total:
        raise UserError(
            f"{workdir}/checkpoints/{step} is beyond config.total_steps, {total}: move it away, then run the same "
            "command again"
        )
    state, _ = checkpoints.restore(step, experiment.abstract_state())
    if experiment.config.init.backbone or experiment.config.init.checkpoint:
        _print(f"config.init is ignored: {workdir} continues from its checkpoint of step {step}.")
    return state, step


def _record_start(experiment: Experiment, workdir: AnyPath, step: int) -> None:
    files.write_json(workdir / "config.json", experiment.description())
    starts.record(workdir, step)


def _is_published(workdir: AnyPath, step: int, *, last: bool) -> bool:
    """Whether all results of the evaluation of a step were written; those of the last step can be read again."""
    whole = not last or (_figures(workdir) is not None and (workdir / "report" / "index.html").is_file())
    return whole and is_published(workdir, step)


def _train(
    experiment: Experiment,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    workdir: AnyPath,
    stop: Stop,
    *,
    published: bool,
) -> None:
    """Connects the training loop to its parts."""
    config, total = experiment.config, experiment.config.total_steps
    if not sharding.is_on_cpus(experiment.mesh):  # there, compiling would take the cores that a step uses
        experiment.start_compiling_network()
    batches = experiment.train_stream(position=start)
    first = start + published  # an evaluation of step `start` that was not published is repeated
    evaluations = EvaluationTime(first, total, config.eval_every, steps_each=_steps_of_an_evaluation(experiment))
    progress = Progress(total, "Training", initial=start, further=evaluations.left)
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

    def evaluate(state: TrainState) -> Validation:
        evaluations.begin()
        return experiment.evaluator.validate(experiment.network(state))

    def publish(validation: Validation, state: TrainState, step: int, seconds: float) -> None:
        write = partial(_publish, experiment, writer, progress, workdir, validation, state, step, seconds)
        _on_main(write, checkpoints)
        progress.leave_out(evaluations.end())

    with batches, progress, monitor, profile:
        progress.say(_announcement(experiment, start))
        try:
            loop.train(
                state,
                experiment.train_step(),
                batches,
                start=start,
                total=total,
                eval_every=config.eval_every,
                checkpoint_every=config.checkpoint_every,
                published=published,
                evaluate=evaluate,
                save=partial(_save, experiment, checkpoints, batches, writer),
                add_score=lambda step, validation: checkpoints.add_miou(step, _miou(validation)),
                publish=publish,
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
    writer: MetricsWriter,
    state: TrainState,
    step: int,
    validation: Validation | None,
) -> None:
    """Starts writing a checkpoint. Raises UserError if metrics could not be written since the last one."""
    miou = _miou(validation) if validation else None
    checkpoints.save(step, state, position=batches.position, config=experiment.description(), miou=miou)
    _finish_saving_if_it_fails(writer.check, checkpoints)


def _miou(validation: Validation) -> float | None:
    return validation.evaluation.as_json()["mIoU"]


def _steps_of_an_evaluation(experiment: Experiment) -> float:
    """A guess of the training steps that take as long as one evaluation: forward passes cost a third of steps."""
    return experiment.evaluator.windows() / (3 * experiment.config.batch_size)


def _on_main(function: Callable[[], None], checkpoints: Checkpoints) -> None:
    """Calls the function on process 0. Raises UserError on every process if that fails, after the save in progress."""
    _finish_saving_if_it_fails(lambda: function() if processes.is_main_process() else None, checkpoints)


def _finish_saving_if_it_fails(function: Callable[[], None], checkpoints: Checkpoints) -> None:
    """Calls the function on every process; if it raises UserError on one, first waits for the save in progress."""
    try:
        processes.on_all(function)
    except UserError:
        checkpoints.finish_saving()
        raise


def _publish(
    experiment: Experiment,
    writer: MetricsWriter,
    progress: Progress,
    workdir: AnyPath,
    validation: Validation,
    state: TrainState,
    step: int,
    seconds: float,
) -> None:
    """Writes the results of an evaluation: eval.json, the report, TensorBoard and metrics; at the end also panels.

    The figures are printed first, so that they survive a failed write. The line of metrics.jsonl is written last: it
    says that the other files are there.
    """
    began = time.monotonic()
    evaluator, last, network = experiment.evaluator, step == experiment.config.total_steps, experiment.network(state)
    evaluation, losses = validation
    means = evaluation.logged()
    progress.say(f"Step {step}: {', '.join(f'{name} {100 * value:.2f} %' for name, value in means.items())}")
    if last:
        progress.say(f"\n{evaluation.table()}\n")
    values = means | {f"val_{name}": value for name, value in losses.items()} | {EVALUATED: seconds}
    writer.flush()
    training = read_training(workdir, latest={"step": step, **values})
    earlier = prior.read_kept(workdir, step)
    maps = publish.write_all(
        workdir, evaluation, evaluator, network, step=step, training=training, earlier=earlier, panels=last
    )
    if maps:
        publish.keep_priors(workdir, maps, step)
    show = partial(writer.picture, step=step)
    publish.draw(show, evaluation, evaluator, network, count=TENSORBOARD_IMAGES)
    writer.write(step, values | {PUBLISHING: time.monotonic() - began})
    writer.check()
    if last and on_terminal():
        writer.flush()
        progress.say("\n".join(_summary(evaluation, entries(workdir))))


def _summary(evaluation: Evaluation, logged: list[dict[str, Any]]) -> list[str]:
    """Where the time went, and which classes are confused most; for a terminal."""
    classes = evaluation.dataset.classes
    lines = [f"Time: {times.line(times.parts(logged))}."]
    confused = [
        f"{classes[pair.true]} taken for {classes[pair.predicted]} ({pair.of_class:.1%} of its pixels)"
        for pair in frequent_confusions(evaluation.confusion)[:CONFUSIONS]
    ]
    return [*lines, f"Most confused: {', '.join(confused)}."] if confused else lines


def _diverged(
    experiment: Experiment, found: NonFiniteStep, checkpoints: Checkpoints, workdir: AnyPath
) -> TrainingDiverged:
    """Saves the state before the non-finite step; returns the error to raise."""
    step, limit = found.step - 1, experiment.config.optimizer.skip_nonfinite
    kept = f"the state before it is kept in {workdir}/checkpoints/{step}"
    if step == 0:
        kept = "no step came before it"
    else:
        # With this count, a run that resumes with the same limit stops at the same step again.
        good = replace(found.state, skipped=jnp.full_like(found.state.skipped, limit))
        try:
            checkpoints.finish_saving()  # it may be this step's
            if step not in checkpoints.steps():
                checkpoints.save(step, good, position=step, config=experiment.description(), miou=None)
                checkpoints.finish_saving()
        except WriteFailed as error:
            kept = f"the state before it could not be kept ({error})"
    return TrainingDiverged(
        f"{found}; {kept}. To skip it, run again with config.optimizer.skip_nonfinite above {limit}. To start over, "
        "name another --workdir with a lower config.optimizer.base_lr, with config.optimizer.warmup_steps or with "
        f"config.optimizer.clip_global_norm. Its batch held the examples {', '.join(found.ids)}"
    )


def _announcement(experiment: Experiment, start: int) -> str:
    config = experiment.config
    if start == config.total_steps:
        return f"Step {start} is the last one and was saved, but its results were not written: evaluating it again."
    begins = f"resuming at step {start} of" if start else "training for"
    return (
        f"{len(experiment.train_records)} training and {len(experiment.evaluator)} evaluation images; {begins} "
        f"{config.total_steps} steps of {config.batch_size}. The first step compiles, unless it is in the cache."
        f"{_unfinished_warm_up(config)}"
    )


def _unfinished_warm_up(config: ml_collections.ConfigDict) -> str:
    """A note if training ends within the warm-up; empty otherwise. It may be a deliberate short try."""
    steps = config.optimizer.warmup_steps
    if steps <= config.total_steps:
        return ""
    field = "warmup_steps" if config.optimizer.warmup_epochs is None else "warmup_epochs"
    return (
        f"\nNote: training ends at step {config.total_steps}, within the warm-up of {steps} steps, so the learning "
        f"rate never reaches config.optimizer.base_lr. A lower config.optimizer.{field} shortens it, in a new run."
    )


def _finished(workdir: AnyPath, step: int) -> str:
    return f"{workdir} is finished: {step} steps; {_figures(workdir)}. Name another --workdir to start a new run."


def _figures(workdir: AnyPath) -> str | None:
    """What eval.json says; None if it is missing, or not written by this program."""
    try:
        found = files.parse_json((workdir / "eval.json").read_bytes())
        settings = found["settings"]
        miou = "undefined" if found["mIoU"] is None else f"{100 * found['mIoU']:.2f} %"
        return f"eval.json says mIoU {miou} on {settings['split']} at step {settings['step']}"
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return None


def _print(line: str) -> None:
    """Prints on the main process only."""
    if processes.is_main_process():
        print(line)
