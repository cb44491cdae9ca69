"""--mode=convert: converts PyTorch weights to a workdir, a workdir to PyTorch weights, or one file to another."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_collections

from cpnet_jax import sharding
from cpnet_jax.config.check import check_config
from cpnet_jax.errors import UserError
from cpnet_jax.inference.finite import check_finite
from cpnet_jax.inference.load import restore
from cpnet_jax.modes import Call, flags
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.weights import tensor_files, workdirs
from cpnet_jax.weights.convert import cpnet_tensors
from cpnet_jax.weights.convertible import check_convertible, notes
from cpnet_jax.weights.dilation import dilation_warning
from cpnet_jax.weights.input_normalization import InputNormalization, adapt
from cpnet_jax.weights.load import PyTorchWeights, load


def convert(
    *,
    weights: str | None,
    config: ml_collections.ConfigDict | None,
    workdir: AnyPath | None,
    output: AnyPath | None,
    checkpoint: str | int,
    normalization: dict[str, Any],
) -> None:
    """Converts weights to the output file or else to a workdir; without weights, a workdir to the output file.

    Args:
      weights: PyTorch weights; see `weights.load`.
      config: of the network that the workdir will hold; for an output file, gives the images' normalisation.
      workdir: to write; without weights, the run to read.
      output: file to write.
      checkpoint: "latest", "best" or a step of the workdir.
      normalization: order, mean and std of the images that the weights expect; None to read a value from their file.

    Raises:
      UserError: if the arguments contradict each other, the weights do not fit, or something cannot be written.
    """
    if output:
        tensor_files.check_suffix(output)
        if output.is_dir():
            raise UserError(f"--output={output} is a folder: name a file")
        files.make_folder(output.parent, "--output")
    if weights is None:
        _workdir_to_file(flags.workdir_of(config, workdir), output, checkpoint)
        return
    if output and workdir:
        raise UserError("--output and --workdir both say where to write the weights: give only one of them")
    if output is None and config is None:
        raise UserError("--config is missing: name the experiment of the network to write a workdir, or give --output")
    if config:
        check_config(config)
    ours = workdirs.normalization_of(config) if config else InputNormalization()
    loaded = _adapted(load(weights), normalization, ours)
    if output:
        _check_finite(loaded)
        workdirs.write_weights(loaded, output)
        print(f"{output}: {len(loaded.tensors)} tensors with unchanged names, for {loaded.normalization}.")
        return
    assert config is not None  # checked above
    workdir = workdir or Path(f"runs/{config.name}")
    for note in workdirs.write_workdir(loaded, config, workdir):
        print(f"Note: {note}", file=sys.stderr, flush=True)
    print(f"{workdir}/checkpoints/0: the CPNet of {weights}, a checkpoint to evaluate, predict or continue from.")


def _adapted(loaded: PyTorchWeights, given: dict[str, Any], ours: InputNormalization) -> PyTorchWeights:
    """The weights for images of our normalisation; values given by flags replace those of their file."""
    given = {name: value for name, value in given.items() if value is not None}
    if min(given.get("std", (1.0,))) <= 0:
        raise UserError(f"--weights_std={','.join(map(str, given['std']))}: each value must be positive")
    theirs = replace(loaded.normalization, **given)
    tensors = adapt(loaded.tensors, theirs, mean=ours.mean, std=ours.std, name=loaded.location)
    print(f"{loaded.location} is assumed to expect {theirs}.", flush=True)
    return replace(loaded, tensors=tensors, normalization=ours)


def _check_finite(loaded: PyTorchWeights) -> None:
    try:
        check_finite(loaded.tensors)
    except ValueError as error:
        advice = "name weights that were saved before the network diverged"
        raise UserError(f"{loaded.location}: {error}: {advice}") from error


def _workdir_to_file(workdir: AnyPath, output: AnyPath | None, checkpoint: str | int) -> None:
    found = restore(workdir, sharding.make_mesh(), checkpoint)
    check_convertible(found.config.model)
    path = output or workdir / f"{found.config.name}{tensor_files.SAFETENSORS}"
    tensors = cpnet_tensors(jax.device_get(found.variables), batches_tracked=found.step)
    warning = dilation_warning(tensors, str(path))
    for line in [*([warning] if warning else []), *notes(found.config.model, str(path))]:
        print(line, file=sys.stderr, flush=True)
    workdirs.write_checkpoint(tensors, found, path)
    print(
        f"{path}: {len(tensors)} tensors of step {found.step} with mmsegmentation's names, for "
        f"{workdirs.normalization_of(found.config)}."
    )


def run(call: Call) -> None:
    convert(**arguments(call.config, call.workdir))


def arguments(config: ml_collections.ConfigDict | None, workdir: AnyPath | None) -> dict[str, Any]:
    """The arguments of `convert` from the flags. Raises UserError if the flags contradict each other."""
    if flags.WEIGHTS.value and flags.CHECKPOINT.present:
        raise UserError("--checkpoint is given with --weights: leave it out, it selects a checkpoint of --workdir")
    if not flags.WEIGHTS.value:
        for flag in (flags.WEIGHTS_ORDER, flags.WEIGHTS_MEAN, flags.WEIGHTS_STD):
            if flag.present:
                raise UserError(f"--{flag.name} is given without --weights: also name the file that it describes")
        if flags.WEIGHTS.present or (workdir is None and config is None):
            raise UserError("--weights is missing: name PyTorch weights to convert, or a run to convert by --workdir")
        workdir = flags.workdir_of(config, workdir)
    return {
        "weights": flags.WEIGHTS.value,
        "config": config,
        "workdir": workdir,
        "output": flags.path(flags.OUTPUT),
        "checkpoint": flags.checkpoint_of(config),
        "normalization": {
            "order": flags.WEIGHTS_ORDER.value,
            "mean": flags.rgb(flags.WEIGHTS_MEAN),
            "std": flags.rgb(flags.WEIGHTS_STD),
        },
    }
