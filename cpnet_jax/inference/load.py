"""Loads a trained network from its workdir; needs neither data nor a config file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from jax.sharding import Mesh
from jaxtyping import PyTree

from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.same_run import with_added_fields
from cpnet_jax.data import catalog
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.value_range import ValueRange, value_range_from
from cpnet_jax.errors import UnknownPart, UserError, reason
from cpnet_jax.inference.finite import check_finite
from cpnet_jax.inference.metadata import check_run
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.network import compiled_logits
from cpnet_jax.models import CPNet
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.state import initial_variables


@dataclass(frozen=True)
class Restored:
    """A checkpoint's config, step, dataset, value range, model and variables."""

    config: ml_collections.ConfigDict
    step: int
    dataset: Dataset
    value_range: ValueRange | None
    model: CPNet
    variables: PyTree


def check_holds_checkpoints(workdir: AnyPath, named_by: str = "--workdir") -> None:
    """Raises UserError if a workdir does not exist or has no folder of checkpoints."""
    if (workdir / "checkpoints").is_dir():
        return
    reason = "holds no checkpoints" if workdir.is_dir() else "is a file" if workdir.exists() else "does not exist"
    raise UserError(f"{workdir} {reason}: train first, or name another {named_by}")


def restore(workdir: AnyPath, mesh: Mesh, checkpoint: str | int = "latest", *, named_by: str = "--workdir") -> Restored:
    """Restores a checkpoint, its variables replicated on the mesh.

    Args:
      checkpoint: "latest", "best" (by validation mIoU) or a step.
      named_by: the flag or field that names the workdir, for messages.

    Raises:
      UserError: if the checkpoint is missing, unreadable or not finite.
    """
    check_holds_checkpoints(workdir, named_by)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = choose_step(checkpoints, checkpoint, workdir, named_by)
        saved = checkpoints.config(step)
        try:
            check_run(saved)
            dataset = _dataset(saved)
            config = ml_collections.ConfigDict(with_added_fields(saved))
            model = build.make_model(config)
            variables = checkpoints.restore_variables(step, _abstract_variables(config, model, mesh))
            check_finite(variables)
        except UnknownPart:
            raise
        except Exception as error:  # Orbax and TensorStore have no common base class
            raise unusable(workdir, step, checkpoints.steps(), error) from error
    return Restored(config, step, dataset, value_range_from(saved["trained_on"]), model, variables)


def from_workdir(workdir: AnyPath, mesh: Mesh, checkpoint: str | int = "latest") -> TrainedModel:
    """Loads the network of a checkpoint onto the mesh; see `restore`.

    Its `origin` holds "workdir", "experiment", "step" and "eval" (the config's section).
    """
    return trained_model(restore(workdir, mesh, checkpoint), workdir, mesh)


def trained_model(found: Restored, workdir: AnyPath, mesh: Mesh) -> TrainedModel:
    """The network of a checkpoint that has been restored onto the mesh; see `from_workdir`."""
    data = found.config.data
    mean, std = tuple(data.mean), tuple(data.std)
    return TrainedModel(
        dataset=found.dataset,
        crop_size=tuple(data.crop_size),
        mean=mean,
        std=std,
        value_range=found.value_range,
        any_size=found.model.takes_any_size,
        logits=partial(compiled_logits(found.model, mesh, mean=mean, std=std), found.variables),
        origin={
            "workdir": str(workdir),
            "experiment": found.config.name,
            "step": found.step,
            "eval": found.config.eval.to_dict(),
        },
    )


def unusable(workdir: AnyPath, step: int, steps: Sequence[int], error: Exception) -> UserError:
    """The error about a checkpoint that cannot be used.

    Args:
      steps: the steps of all checkpoints.
    """
    others = [other for other in steps if other != step]
    advice = f"choose another checkpoint of {others}, or train again" if others else "train again"
    return UserError(f"{workdir}/checkpoints/{step} cannot be used ({reason(error)}): {advice}")


def choose_step(checkpoints: Checkpoints, checkpoint: Any, workdir: AnyPath, named_by: str = "--workdir") -> int:
    """The step of a checkpoint that is given as "latest", "best" or a step.

    Raises:
      UserError: if there is no such checkpoint, or it is damaged.
    """
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{workdir}/checkpoints holds no whole checkpoint: train first, or name another {named_by}")
    if checkpoint in ("latest", "best"):
        return steps[-1] if checkpoint == "latest" else checkpoints.best() or steps[-1]
    if damage := checkpoints.damaged.get(checkpoint):
        raise UserError(
            f"{workdir}/checkpoints/{checkpoint} is damaged ({damage}): choose latest, best or one of {steps}"
        )
    if checkpoint not in steps:
        raise UserError(f"{workdir}/checkpoints has no step {checkpoint}: choose latest, best or one of {steps}")
    return checkpoint


def _abstract_variables(config: ml_collections.ConfigDict, model: nn.Module, mesh: Mesh) -> PyTree:
    initial = partial(initial_variables, model, tuple(config.data.crop_size), jax.random.key(0))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)), jax.eval_shape(initial)
    )


def _dataset(saved: dict[str, Any]) -> Dataset:
    """The classes, palette and ignore label stored in a checkpoint."""
    known, data = saved["trained_on"], saved["data"]
    return Dataset(
        name=catalog.folder.readable_name(data["name"], str(data.get("source") or "")),
        classes=tuple(known["classes"]),
        palette=tuple(tuple(colour) for colour in known["palette"]),
        ignore_label=known["ignore_label"],
    )
