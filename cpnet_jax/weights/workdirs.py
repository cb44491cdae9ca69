"""Writes a workdir from PyTorch weights, and PyTorch weights from a workdir."""

import json
from dataclasses import replace
from typing import Any

import jax
import ml_collections

from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.check import resolve_classes
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.inference.load import Restored
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.workdir_lock import locked
from cpnet_jax.weights import tensor_files
from cpnet_jax.weights.agreement import (
    UNSEEN,
    check_auxiliary_head,
    check_classes,
    check_crop,
    check_unseen,
    classes_note,
    crop_note,
)
from cpnet_jax.weights.convert import Tensors, cpnet_variables
from cpnet_jax.weights.convertible import check_convertible
from cpnet_jax.weights.dilation import check_dilation
from cpnet_jax.weights.input_normalization import InputNormalization
from cpnet_jax.weights.load import ORIGIN, PyTorchWeights


def normalization_of(config: ml_collections.ConfigDict) -> InputNormalization:
    """Normalisation of the images that the network of a config sees."""
    return InputNormalization(tuple(config.data.mean), tuple(config.data.std))


def write_workdir(weights: PyTorchWeights, config: ml_collections.ConfigDict, workdir: AnyPath) -> list[str]:
    """Writes the weights of a whole CPNet as checkpoint 0 of a new run.

    Args:
      weights: adapted to the config's normalisation of images.
      config: of the run, checked; its number of classes is filled in.
      workdir: may exist, without checkpoints.

    Returns:
      Notes to print: differences that do not prevent the conversion.

    Raises:
      UserError: if the weights do not fit the config's network or its dataset, or the workdir has checkpoints or cannot
        be written.
    """
    check_convertible(config.model)
    check_dilation(weights)
    dataset = build.make_dataset(config)
    resolve_classes(config, dataset.classes)
    check_classes(weights, dataset.classes, dataset.name)
    check_crop(weights, config)
    check_auxiliary_head(weights, config)
    check_unseen(weights, config)
    create = build.make_create_state(config)
    abstract = jax.eval_shape(create)
    like = {"params": abstract.params, "batch_stats": abstract.batch_stats}
    variables = cpnet_variables(weights.tensors, like=like, skip=None, name=weights.location)
    description = _description(config, dataset, weights.location)
    files.check_is_no_pattern(workdir, "--workdir")
    files.make_folder(workdir, "--workdir")
    with locked(workdir), Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.latest() is not None:
            raise UserError(f"--workdir={workdir} has checkpoints already: name another folder")
        # First, so that a workdir with a checkpoint is whole.
        files.write_json(workdir / "config.json", description)
        # One jit of both, so that the compiler drops the initial values that are replaced.
        start = jax.jit(
            lambda loaded: replace(create(), **loaded), out_shardings=sharding.replicated(sharding.make_mesh())
        )
        checkpoints.save(0, start(variables), position=0, config=description, miou=None)
    notes = (classes_note(weights, dataset.classes, dataset.name), crop_note(weights, config), _precision_note(config))
    return [note for note in notes if note]


def _precision_note(config: ml_collections.ConfigDict) -> str | None:
    if not config.model.bfloat16:
        return None
    return (
        "the network will compute in bfloat16, so some pixels get another class than in PyTorch's float32; to compute "
        "in float32, convert with --config.model.bfloat16=False"
    )


def _description(config: ml_collections.ConfigDict, dataset: Dataset, location: str) -> dict[str, Any]:
    """The entry `config` of a checkpoint, as training writes it, except for the training data's fingerprint."""
    known = {
        "classes": list(dataset.classes),
        "palette": [list(colour) for colour in dataset.palette],
        "ignore_label": dataset.ignore_label,
        "weights": location,
    }
    return {**as_dict(config), "trained_on": known}


def write_weights(weights: PyTorchWeights, path: AnyPath) -> None:
    """Writes loaded weights to a file, by their own names, with their metadata and the names of their classes."""
    classes = {"classes": json.dumps(weights.classes)} if weights.classes else {}
    tensor_files.write(path, weights.tensors, weights.metadata | classes | _format(weights.normalization))


def write_checkpoint(tensors: Tensors, found: Restored, path: AnyPath) -> None:
    """Writes the tensors of a checkpoint's network to a file, with the metadata that mmsegmentation reads."""
    metadata = _format(normalization_of(found.config)) | _origin(found)
    if path.suffix != tensor_files.SAFETENSORS:
        metadata |= _mmsegmentation_metadata(found)
    tensor_files.write(path, tensors, metadata)


def _format(normalization: InputNormalization) -> dict[str, str]:
    """Metadata of every file. PyTorch programs look for "format" in a safetensors file."""
    return {"format": "pt", **normalization.as_metadata()}


def _origin(found: Restored) -> dict[str, str]:
    return {
        "layout": "mmsegmentation",
        ORIGIN: found.config.name,
        "step": str(found.step),
        "crop_size": json.dumps(list(found.config.data.crop_size)),
        "network": json.dumps({field: list(found.config.model[field]) for field in UNSEEN}),
        "classes": json.dumps(found.dataset.classes),
        "palette": json.dumps(found.dataset.palette),
    }


def _mmsegmentation_metadata(found: Restored) -> dict[str, Any]:
    """Classes and colours: mmsegmentation 0.x reads the first two entries, 1.x the last."""
    classes, palette = tuple(found.dataset.classes), [list(colour) for colour in found.dataset.palette]
    return {"CLASSES": classes, "PALETTE": palette, "dataset_meta": {"classes": classes, "palette": palette}}
