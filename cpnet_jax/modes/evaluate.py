"""--mode=eval: evaluates a trained network on labelled images, those of its run or any others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_collections
from jaxtyping import Array

from cpnet_jax import sharding
from cpnet_jax.config import of_the_network
from cpnet_jax.config.check import check_config
from cpnet_jax.config.compiled_fields import compiled_fields
from cpnet_jax.config.same_run import as_dict, check_same_everywhere, flat
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.records import fingerprint
from cpnet_jax.data.value_range import ValueRange
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation import publish
from cpnet_jax.evaluation.data import EvaluationData, open_data
from cpnet_jax.evaluation.evaluator import Evaluator
from cpnet_jax.evaluation.report import prior, read_training
from cpnet_jax.inference.load import check_holds_checkpoints, restore
from cpnet_jax.inference.network import CompiledNetworks, Network
from cpnet_jax.models import CPNetOutput
from cpnet_jax.modes import Call, flags
from cpnet_jax.runtime import distributed, files, processes
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.programs import Programs


@dataclass(frozen=True)
class Trained:
    """A trained network to evaluate.

    Attributes:
      config: of its run, with the user's sections `eval` and `system`.
      dataset: its classes.
      step: the step that it is from.
      network: loads or compiles it.
      value_range: range by which its training images of more than 8 bits were scaled.
      run: the description of its run, see `Experiment.description`; None for an exported network.
      name: that of an exported network's file; empty for another one, which its config names.
      any_size: whether the network takes images of any size.
    """

    config: ml_collections.ConfigDict
    dataset: Dataset
    step: int
    network: Callable[[], Network]
    value_range: ValueRange | None
    any_size: bool
    run: ml_collections.ConfigDict | None = None
    name: str = ""

    def fields(self) -> dict[str, Any]:
        """Those of its config by their dotted names, with JSON's values."""
        return dict(flat(as_dict(self.config)))


def run(call: Call) -> None:
    config, given = call.config, flags.given_fields()
    if flags.MULTI_SCALE.present:
        config.eval.multi_scale = flags.MULTI_SCALE.value
    if exported := flags.exported_network(fixed=("model.",)):
        evaluate_exported(config, exported, call.workdir, given)
    else:
        evaluate_workdir(config, call.workdir, flags.checkpoint_of(config), given)


def evaluate_workdir(
    config: ml_collections.ConfigDict, workdir: AnyPath, checkpoint: str | int = "latest", given: Sequence[str] = ()
) -> None:
    """Evaluates a checkpoint; prints the table, and writes eval.json and the report.

    They go to DIR for the images that the run was evaluated on while training, else to DIR/evaluations/NAME.

    Args:
      config: names the data, and says how to evaluate (`eval`, `system`). All else comes from the run.
      workdir: DIR.
      checkpoint: "latest", "best" (by validation mIoU) or a step.
      given: names of the fields that were set on the command line.

    Raises:
      UserError: if the workdir holds no such checkpoint, or the data cannot be read or have none of its classes.
    """
    check_config(config)
    processes.on_all(lambda: check_holds_checkpoints(workdir) if processes.is_main_process() else None)
    processes.on_all(lambda: files.make_folder(workdir, "--workdir"))
    distributed.check_shared(workdir)
    trained = _from_workdir(config, workdir, checkpoint)
    of_the_network.check_given(given, config, trained.fields, workdir)
    data = open_data(config, trained.dataset, trained.run, trained.value_range)
    folder = workdir / "evaluations" / data.name if data.name else workdir
    # Only the run's own images are in the evaluations that it has kept.
    earlier = prior.read_kept(workdir, trained.step) if folder == workdir else ()
    _evaluate(trained, data, folder, training=read_training(workdir), earlier=earlier)


def evaluate_exported(
    config: ml_collections.ConfigDict, exported: AnyPath, workdir: AnyPath, given: Sequence[str] = ()
) -> None:
    """Evaluates an exported network as `evaluate_workdir` does; writes to DIR.

    Args:
      exported: the file.
      workdir: DIR, a folder without a run.

    Raises:
      UserError: as `evaluate_workdir`; or if the file cannot be read, or the workdir holds a run.
    """
    check_config(config)
    if (workdir / "checkpoints").exists():
        raise UserError(f"--workdir is {workdir}, a training run: name another folder for the results of --model")
    trained = _from_file(config, exported)
    of_the_network.check_given(given, config, trained.fields, exported)
    data = open_data(config, trained.dataset, value_range=trained.value_range)
    processes.on_all(lambda: files.make_folder(workdir, "--workdir"))
    _evaluate(trained, data, workdir)


def _from_workdir(config: ml_collections.ConfigDict, workdir: AnyPath, checkpoint: str | int) -> Trained:
    found = restore(workdir, sharding.make_mesh(), checkpoint)
    merged = ml_collections.ConfigDict({**found.config, "eval": config.eval, "system": config.system})
    del merged.trained_on

    def network() -> Network:
        programs = Programs(config.system.compilation_cache, compiled_fields(merged))
        return CompiledNetworks(merged, found.model, programs).of(found.variables)

    any_size = found.model.takes_any_size
    return Trained(merged, found.dataset, found.step, network, found.value_range, any_size, found.config)


def _from_file(config: ml_collections.ConfigDict, exported: AnyPath) -> Trained:
    from cpnet_jax.inference.export import load_exported

    model = load_exported(exported, sharding.local_mesh())
    merged = config.copy_and_resolve_references()
    merged.name = model.origin["experiment"]
    merged.data.update(crop_size=model.crop_size, mean=model.mean, std=model.std)
    merged.model.context_prior = False  # the file's network has no other outputs than the logits

    def network(*inputs: Array) -> CPNetOutput:
        return CPNetOutput(model.logits(*inputs), None, None)

    step, name = model.origin["step"], exported.name
    return Trained(merged, model.dataset, step, lambda: network, model.value_range, model.any_size, name=name)


def _evaluate(trained: Trained, data: EvaluationData, folder: AnyPath, **of_run: Any) -> None:
    """Evaluates the network on the data; the main process prints the table and writes to the folder.

    `of_run` is what `publish.write_all` shows of the network's training.
    """
    config = trained.config
    evaluator = Evaluator(config, data, network_name=trained.name, any_size=trained.any_size)
    about = {"split": data.split, "fingerprint": fingerprint(data.records), "classes": list(data.labelled.classes)}
    check_same_everywhere(processes.gather({**as_dict(config), "evaluated_on": about}))
    if processes.is_main_process():
        for note in data.notes:
            print(note, flush=True)
    network = trained.network()
    evaluation = evaluator.evaluate(network)
    if not evaluation.confusion.any():
        raise UserError(
            f"no pixel in the {evaluation.images} image(s) of split {data.split} has a class of the network: correct "
            "the masks or the class file"
        )

    def write() -> None:
        # Printed before any file is written, so that the figures survive a failed write.
        print(f"\n{evaluation.table()}\n\nStep {trained.step}, split {data.split}.", flush=True)
        publish.write_all(folder, evaluation, evaluator, network, step=trained.step, **of_run)
        print(f"{folder}/eval.json holds these figures, {folder}/report/index.html shows them.")

    # The other processes wait: JAX gives them minutes only from the first exit to the last.
    processes.on_all(lambda: write() if processes.is_main_process() else None)
