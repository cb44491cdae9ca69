"""--mode=eval: a trained workdir's figures on the evaluation split."""

from pathlib import Path

import ml_collections

from cpnet_jax.config.same_run import check_same_run
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation import publish
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime import distributed, files, processes
from cpnet_jax.training.checkpoint import Checkpoints


def evaluate_workdir(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Evaluates the latest or best checkpoint; writes DIR/eval.json and DIR/report, prints the table.

    Raises:
      UserError: where the workdir holds no checkpoint, or one of another config.
    """
    processes.on_all(lambda: _check_holds_checkpoints(workdir) if processes.is_main_process() else None)
    processes.on_all(lambda: files.make_folder(workdir, "--workdir"))
    distributed.check_shared(workdir)
    experiment = Experiment(config)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.best() if config.eval.checkpoint == "best" else checkpoints.latest()
        if step is None:
            raise UserError(f"{workdir}/checkpoints holds no whole checkpoint: train first, or name another --workdir")
        check_same_run(experiment.description(), checkpoints.config(step), workdir)
        state, _ = checkpoints.restore(step, experiment.abstract_state())
    evaluator = experiment.evaluator
    evaluation = evaluator.evaluate(state)
    if not processes.is_main_process():
        return
    # First, so that nothing that goes wrong with the files can lose it.
    print(f"\n{evaluation.table()}\n\nStep {step}, split {evaluator.split}.", flush=True)
    publish.write_all(workdir, evaluation, evaluator, state, step=step, count=config.eval.pictures)
    print(f"{workdir}/eval.json holds this, {workdir}/report/index.html shows it.")


def _check_holds_checkpoints(workdir: Path) -> None:
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoints: train first, or name another --workdir")
