"""The training loop.

Its order is a contract, which resuming relies on:

    evaluate > save > next(batch) > step

A checkpoint of step t is written after the evaluation of step t and before batch t is taken. So a run that starts from
it has nothing to repeat: it takes batch t and goes on as if it had never stopped.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from cpnet_jax.config.check import profiled_steps
from cpnet_jax.config.same_run import check_same_run
from cpnet_jax.errors import Stopped, TrainingDiverged
from cpnet_jax.evaluation import publish
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime import distributed, files, processes
from cpnet_jax.runtime.progress import Progress
from cpnet_jax.runtime.signals import Stop
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.metrics import MetricsWriter
from cpnet_jax.training.monitor import Monitor, NonFiniteStep
from cpnet_jax.training.profile import Profile
from cpnet_jax.training.state import TrainState
from cpnet_jax.training.workdir_lock import locked

# Images of which every evaluation leaves pictures on TensorBoard.
DRAWN = 4


def train(config: ml_collections.ConfigDict, workdir: Path, stop: Stop) -> None:
    """Trains to config.total_steps, resuming from the newest whole checkpoint in the workdir; evaluates at the end.

    Raises:
      Stopped: when asked to stop before the end; all steps are saved.
      UserError: on a mistake in the config or the data, or a workdir that belongs to another config.
      TrainingDiverged: on a loss that is not finite.
    """
    experiment = Experiment(config)
    processes.on_all(lambda: files.make_folder(workdir, "--workdir"))
    distributed.check_shared(workdir)
    with locked(workdir), Checkpoints(workdir / "checkpoints") as checkpoints:
        state, start = _start(experiment, checkpoints, workdir)
        if start == config.total_steps:
            if processes.is_main_process():
                print(_finished(workdir, start))
            return
        if processes.is_main_process():
            files.write_json(workdir / "config.json", experiment.description())
        with MetricsWriter(workdir, start) as writer:
            evaluation = _loop(experiment, state, start, checkpoints, writer, workdir, stop)
    if not processes.is_main_process():
        return
    print(f"\n{evaluation.table()}\n\n{workdir}/eval.json holds these figures, {workdir}/report/index.html shows them.")


def _start(experiment: Experiment, checkpoints: Checkpoints, workdir: Path) -> tuple[TrainState, int]:
    """The state to go on from, and its step."""
    step = checkpoints.latest()
    if step is None:
        return experiment.initial_state(), 0
    check_same_run(experiment.description(), checkpoints.config(step), workdir)
    state, position = checkpoints.restore(step, experiment.abstract_state())
    assert position == step, "one global batch is taken a step"
    if (experiment.config.init.backbone or experiment.config.init.checkpoint) and processes.is_main_process():
        print(f"config.init is not read again: {workdir} goes on from its own checkpoint of step {step}.")
    return state, step


def _loop(
    experiment: Experiment,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    workdir: Path,
    stop: Stop,
) -> Evaluation:
    config, total = experiment.config, experiment.config.total_steps
    train_step = experiment.train_step()
    batches = experiment.train_stream(position=start)
    with (
        batches,
        Progress(total, "Training", initial=start) as progress,
        Monitor(experiment, writer, progress, batches) as monitor,
        Profile(
            profiled_steps(config),
            begin=start,
            end=total,
            folder=workdir / "tensorboard",
            say=progress.say,
        ) as profile,
    ):
        progress.say(_announcement(experiment, start))
        try:
            for step in range(start, total + 1):
                last, fresh = step == total, step > start
                checkpoints.check()

                # evaluate
                evaluation = None
                if last or (fresh and _due(step, config.eval_every)):
                    with monitor.pause("evaluation", step):
                        evaluation = experiment.evaluator.evaluate(state)
                        _report(evaluation, state, step, experiment, writer, progress, workdir)

                # save
                stopping = stop.requested(step)
                if fresh and (evaluation is not None or stopping or _due(step, config.checkpoint_every)):
                    with monitor.pause("checkpoint", step):
                        checkpoints.save(
                            step,
                            state,
                            position=batches.position,
                            config=experiment.description(),
                            miou=evaluation and evaluation.as_json()["mIoU"],
                        )
                if last:
                    return evaluation
                if stopping:
                    raise Stopped(f"Stopped at step {step}, with all steps saved: the same command goes on from there.")

                with profile.step(step + 1, finish=monitor.catch_up):
                    # next(batch)
                    batch = monitor.next_batch()

                    # step
                    state, metrics = train_step(state, batch)
                    monitor.step_taken(step + 1, metrics)
                    stop.step_taken()
        except NonFiniteStep as found:
            kept = _keep_last_good(experiment, state, found.step - 1, checkpoints, workdir)
            raise _diverged(found, kept, config.optimizer.skip_nonfinite) from found
    raise AssertionError("unreachable: the loop ends at its last step")


def _keep_last_good(
    experiment: Experiment, state: TrainState, step: int, checkpoints: Checkpoints, workdir: Path
) -> str:
    """Saves the state of that step, which no later one has changed; says where it is."""
    if step == 0:
        return "no step came before it"
    if step not in checkpoints.steps():
        # Started again with the same limit, it stops at the same step again.
        skipped = jnp.full_like(state.skipped, experiment.config.optimizer.skip_nonfinite)
        good = state.replace(skipped=skipped)
        checkpoints.save(step, good, position=step, config=experiment.description(), miou=None)
    return f"the state before it is kept in {workdir}/checkpoints/{step}"


def _diverged(found: NonFiniteStep, kept: str, limit: int) -> TrainingDiverged:
    return TrainingDiverged(
        f"{found}; {kept}: to go on past it, start again with config.optimizer.skip_nonfinite at more than {limit}, or "
        "begin anew in another --workdir with a lower config.optimizer.base_lr, with config.optimizer.warmup_steps or "
        f"with config.optimizer.clip_global_norm; its batch held the examples {', '.join(found.ids)}"
    )


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
    if not processes.is_main_process():
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
