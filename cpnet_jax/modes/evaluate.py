"""--mode=eval: evaluates a workdir's checkpoint on the evaluation split."""

import ml_collections

from cpnet_jax.config.same_run import check_same_run
from cpnet_jax.evaluation import publish
from cpnet_jax.inference.load import check_holds_checkpoints, choose_step
from cpnet_jax.modes import Call, flags
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime import distributed, files, processes
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.training.checkpoint import Checkpoints


def evaluate_workdir(config: ml_collections.ConfigDict, workdir: AnyPath, checkpoint: str | int = "latest") -> None:
    """Evaluates a checkpoint; writes DIR/eval.json and DIR/report, prints the table.

    Args:
      config: the config of the run.
      workdir: DIR.
      checkpoint: "latest", "best" (by validation mIoU) or a step.

    Raises:
      UserError: if the workdir holds no such checkpoint, or one of a run with another config.
    """
    processes.on_all(lambda: check_holds_checkpoints(workdir) if processes.is_main_process() else None)
    processes.on_all(lambda: files.make_folder(workdir, "--workdir"))
    distributed.check_shared(workdir)
    experiment = Experiment(config)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = choose_step(checkpoints, checkpoint, workdir)
        check_same_run(experiment.description(), checkpoints.config(step), workdir)
        state, _ = checkpoints.restore(step, experiment.abstract_state())
    evaluator = experiment.evaluator
    evaluation = evaluator.evaluate(state)
    if not processes.is_main_process():
        return
    # Printed before any file is written, so that the figures survive a failed write.
    print(f"\n{evaluation.table()}\n\nStep {step}, split {evaluator.split}.", flush=True)
    publish.write_all(workdir, evaluation, evaluator, state, step=step, count=config.eval.pictures)
    print(f"{workdir}/eval.json holds these figures, {workdir}/report/index.html shows them.")


def run(call: Call) -> None:
    config = call.config
    if flags.MULTI_SCALE.present:
        config.eval.multi_scale = flags.MULTI_SCALE.value
    evaluate_workdir(config, call.workdir, flags.checkpoint_of(config))
