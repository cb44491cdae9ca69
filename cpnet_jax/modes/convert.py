"""--mode=convert: PyTorch's weights into a workdir, a workdir's into PyTorch's files, or from file to file."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections

from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.inference.load import Restored, restore
from cpnet_jax.runtime import files
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.state import create_state
from cpnet_jax.training.workdir_lock import locked
from cpnet_jax.weights import tensor_files
from cpnet_jax.weights.convert import cpnet_tensors, cpnet_variables
from cpnet_jax.weights.dilation import check_dilation, warning
from cpnet_jax.weights.expressible import check_expressible, note
from cpnet_jax.weights.load import ORIGIN, Weights, load
from cpnet_jax.weights.pixels import Pixels, adapt


def convert(
    *,
    source: str | None,
    config: ml_collections.ConfigDict | None,
    workdir: Path | None,
    output: Path | None,
    checkpoint: str | int,
    pixels: dict[str, Any],
) -> None:
    """Which way follows from what is named: source to output, source to workdir, or workdir to output.

    Args:
      source: PyTorch's weights; see `weights.load`.
      config: says what network the workdir will hold; for a file, what images its weights are to expect.
      workdir: of a run; without a source it is what is converted.
      output: a file.
      checkpoint: "latest", "best" or a step of the workdir.
      pixels: order, mean and std of the images that the source expects; None where it is to say itself.

    Raises:
      UserError: where the source is not what is wanted, or something is in the way.
    """
    if output:
        tensor_files.check_suffix(output)
        if output.is_dir():
            raise UserError(f"--output={output} is a folder: name a file")
        files.make_folder(output.parent, "--output")
    if source is None:
        _to_file(workdir, output, checkpoint)
        return
    if output and workdir:
        raise UserError("--output and --workdir both say where the weights go: give one of them")
    if output is None and config is None:
        raise UserError("--config is missing: name the experiment whose network the weights are, or give --output")
    if config:
        check_config(config)
    weights = _for_images(load(source), pixels, _pixels(config) if config else Pixels())
    if output:
        tensor_files.write(output, weights.tensors, weights.metadata | _metadata(weights.pixels))
        print(f"{output}: {len(weights.tensors)} tensors by their own names, for {weights.pixels}.")
    else:
        _to_workdir(weights, config, workdir or Path(f"runs/{config.name}"))


def _for_images(weights: Weights, given: dict[str, Any], ours: Pixels) -> Weights:
    given = {name: value for name, value in given.items() if value is not None}
    if min(given.get("std", (1.0,))) <= 0:
        raise UserError(f"--weights_std={','.join(map(str, given['std']))}: each must be positive")
    theirs = replace(weights.pixels, **given)
    tensors = adapt(weights.tensors, theirs, mean=ours.mean, std=ours.std, name=weights.source)
    print(f"{weights.source} is taken to expect {theirs}.", flush=True)
    return replace(weights, tensors=tensors, pixels=ours)


def _pixels(config: ml_collections.ConfigDict) -> Pixels:
    return Pixels(tuple(config.data.mean), tuple(config.data.std))


def _to_workdir(weights: Weights, config: ml_collections.ConfigDict, workdir: Path) -> None:
    check_expressible(config.model)
    check_dilation(weights)
    dataset = build.make_dataset(config)
    resolve_classes(config, dataset)
    create = partial(
        create_state, build.make_model(config), build.make_optimizer(config), tuple(config.data.crop_size), config.seed
    )
    abstract = jax.eval_shape(create)
    like = {"params": abstract.params, "batch_stats": abstract.batch_stats}
    variables = cpnet_variables(weights.tensors, like=like, name=weights.source)
    description = _description(config, dataset, weights.source)
    files.make_folder(workdir, "--workdir")
    with locked(workdir), Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.latest() is not None:
            raise UserError(f"--workdir={workdir} holds checkpoints already: name another")
        # Under one jit, so that nothing is drawn that would not be used.
        start = jax.jit(
            lambda loaded: create().replace(**loaded), out_shardings=sharding.replicated(sharding.make_mesh())
        )
        checkpoints.save(0, start(variables), position=0, config=description, miou=None)
    files.write_json(workdir / "config.json", description)
    print(f"{workdir}/checkpoints/0: the CPNet of {weights.source}, a checkpoint to evaluate, predict or go on from.")


def _description(config: ml_collections.ConfigDict, dataset: Dataset, source: str) -> dict[str, Any]:
    """As `Experiment.description`, without data."""
    known = {
        "classes": list(dataset.classes),
        "palette": [list(colour) for colour in dataset.palette],
        "ignore_label": dataset.ignore_label,
        "weights": source,
    }
    return {**as_dict(config), "trained_on": known}


def _to_file(workdir: Path, output: Path | None, checkpoint: str | int) -> None:
    found = restore(workdir, sharding.make_mesh(), checkpoint)
    check_expressible(found.config.model)
    path = output or workdir / f"{found.config.name}{tensor_files.SAFETENSORS}"
    tensors = cpnet_tensors(jax.device_get(found.variables), batches_tracked=found.step)
    for said in (warning(tensors, str(path)), note(found.config.model, str(path))):
        if said:
            print(said, file=sys.stderr, flush=True)
    pixels = _pixels(found.config)
    metadata = _metadata(pixels) | _origin(found)
    tensor_files.write(path, tensors, metadata if path.suffix == tensor_files.SAFETENSORS else metadata | _meta(found))
    print(f"{path}: {len(tensors)} tensors of step {found.step} by mmsegmentation's names, for {pixels}.")


def _metadata(pixels: Pixels) -> dict[str, str]:
    """Strings, as safetensors has it; "format" is what PyTorch's programs look for there."""
    return {"format": "pt", **pixels.as_metadata()}


def _origin(found: Restored) -> dict[str, str]:
    return {
        "layout": "mmsegmentation",
        ORIGIN: found.config.name,
        "step": str(found.step),
        "crop_size": json.dumps(list(found.config.data.crop_size)),
        "classes": json.dumps(found.dataset.classes),
        "palette": json.dumps(found.dataset.palette),
    }


def _meta(found: Restored) -> dict[str, Any]:
    """Where mmsegmentation looks for the classes: 0.x at the first two, 1.x at the last."""
    classes, palette = tuple(found.dataset.classes), [list(colour) for colour in found.dataset.palette]
    return {"CLASSES": classes, "PALETTE": palette, "dataset_meta": {"classes": classes, "palette": palette}}
