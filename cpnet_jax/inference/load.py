"""A trained network out of its workdir, which is all that is needed: no data, no config file."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from jax.sharding import Mesh
from jaxtyping import PyTree

from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.same_run import completed
from cpnet_jax.data import catalog
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.catalog.voc import voc_palette
from cpnet_jax.errors import UserError
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.network import compiled_logits
from cpnet_jax.models import CPNet
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.state import initial_variables


@dataclass(frozen=True)
class Restored:
    """A checkpoint: all that its workdir says of a network."""

    config: ml_collections.ConfigDict
    step: int
    dataset: Dataset
    model: CPNet
    variables: PyTree


def restore(workdir: Path, mesh: Mesh, checkpoint: str | int = "latest", *, named_by: str = "--workdir") -> Restored:
    """A checkpoint, its variables on every device of the mesh.

    Args:
      checkpoint: "latest", "best" (by validation mIoU) or a step.
      named_by: the flag or field that the workdir is from.

    Raises:
      UserError: where there is no such checkpoint, or it cannot be read.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoints: train first, or name another {named_by}")
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = _choose(checkpoints, checkpoint, workdir, named_by)
        try:
            saved = completed(checkpoints.config(step))
            config = ml_collections.ConfigDict(saved)
            model = build.make_model(config)
            variables = checkpoints.restore_variables(step, _abstract_variables(config, model, mesh))
        except Exception as error:  # Orbax and TensorStore have no error in common
            raise UserError(
                f"{workdir}/checkpoints/{step} cannot be read ({type(error).__name__}: {_first_line(error)}): take "
                f"another checkpoint of {checkpoints.steps()}, or train again"
            ) from error
    return Restored(config, step, _dataset(saved), model, variables)


def from_workdir(workdir: Path, mesh: Mesh, checkpoint: str | int = "latest") -> TrainedModel:
    """The network of a checkpoint, on every device of the mesh; see `restore`.

    Its `origin` holds "workdir", "experiment", "step" and "eval", the config's fields of that name.
    """
    found = restore(workdir, mesh, checkpoint)
    data = found.config.data
    mean, std = tuple(data.mean), tuple(data.std)
    return TrainedModel(
        dataset=found.dataset,
        crop_size=tuple(data.crop_size),
        mean=mean,
        std=std,
        logits=partial(compiled_logits(found.model, mesh, mean=mean, std=std), found.variables),
        origin={
            "workdir": str(workdir),
            "experiment": found.config.name,
            "step": found.step,
            "eval": found.config.eval.to_dict(),
        },
    )


def _choose(checkpoints: Checkpoints, checkpoint: str | int, workdir: Path, named_by: str) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{workdir}/checkpoints holds no whole checkpoint: train first, or name another {named_by}")
    if checkpoint in ("latest", "best"):
        return checkpoints.latest() if checkpoint == "latest" else checkpoints.best()
    if damage := checkpoints.damaged.get(checkpoint):
        raise UserError(
            f"{workdir}/checkpoints/{checkpoint} is damaged ({damage}): take latest, best or one of {steps}"
        )
    if checkpoint not in steps:
        raise UserError(f"{workdir}/checkpoints has no step {checkpoint}: take latest, best or one of {steps}")
    return checkpoint


def _abstract_variables(config: ml_collections.ConfigDict, model: nn.Module, mesh: Mesh) -> PyTree:
    initial = partial(initial_variables, model, tuple(config.data.crop_size), jax.random.key(0))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)), jax.eval_shape(initial)
    )


def _dataset(saved: dict[str, Any]) -> Dataset:
    """What the checkpoint knows of its classes; older ones leave their colours to the catalog."""
    name, known = saved["data"]["name"], saved.get("trained_on", {})
    cataloged = catalog.DATASETS.get(name)
    classes = tuple(known.get("classes", cataloged.classes if cataloged else ()))
    if "palette" in known:
        palette = tuple(tuple(colour) for colour in known["palette"])
    elif cataloged and cataloged.classes == classes:
        palette = cataloged.palette
    else:
        palette = voc_palette(len(classes) + 1)[1:]  # without its black
    if len(classes) != saved["data"]["num_classes"]:
        raise UserError(
            f"the checkpoint has {saved['data']['num_classes']} classes but names {len(classes)} of {name}: it was "
            "written by a version that did not keep them, so train again"
        )
    return Dataset(name=name, classes=classes, palette=palette, ignore_label=known.get("ignore_label", 255))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]  # TensorStore's are thousands of characters long
