"""What a training starts from, read once, at its step 0: a pretrained backbone, or a network trained before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cpnet_jax import sharding, weights
from cpnet_jax.config import build
from cpnet_jax.errors import UserError
from cpnet_jax.inference import load
from cpnet_jax.runtime import files, processes
from cpnet_jax.training import patterns
from cpnet_jax.weights.merge import Variables, merge, paths
from cpnet_jax.weights.resize_prior import Size, resize_prior

# The context prior's convolution here, and in files of the authors' layout, where its first axis is h * w.
PRIOR, PRIOR_KEY = "context/prior/kernel", "decode_head.prior_conv.conv.weight"


@dataclass(frozen=True)
class Source:
    """The fields of config.init, and what they have to agree with.

    Attributes:
      backbone: a file or hf://... of a pretrained backbone.
      checkpoint: a workdir of this program, one of the checkpoints in it, DIR/checkpoints/STEP, or a file or hf://...
        of a whole CPNet in the authors' layout. It has a backbone: `backbone` is not read then.
      skip: patterns (see `patterns`) of what keeps its initial value, and of what is there and has no use here.
      saved_prior_size: (h, w) of the context prior in a file; empty: it is square.
      prior_size: (h, w) of this network's; None: it has none.
      mean, std: by which its images are normalised.
    """

    backbone: str
    checkpoint: str
    skip: Sequence[str]
    saved_prior_size: Sequence[int]
    prior_size: Size | None
    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class Loaded:
    """What was read, as numpy arrays; from where; and the (h, w) of their context prior, if they have one."""

    variables: Variables
    origin: str
    prior_size: Size | None = None


def start_from(source: Source, initial: Variables, mesh: Mesh) -> tuple[Variables, list[str]]:
    """The variables that a training starts with, and what there is to say of them.

    Of several processes the first one reads files, for all: a file has to be on its host alone, one on the network is
    fetched once, and all begin with the same bits whatever lies about on their disks. Workdirs are on disks that all of
    them see anyway; each reads what its own devices need.

    Args:
      initial: {"params": ..., "batch_stats": ...} of the whole network, on every device of the mesh.

    Returns:
      (variables like `initial`, lines for people: none where there is no source).

    Raises:
      UserError: where the source cannot be read, and where it does not fit the network.
    """
    if not source.checkpoint and not source.backbone:
        return initial, []
    if source.checkpoint:
        field, part, loaded = "checkpoint", initial, _read_checkpoint(source, initial, mesh)
    else:
        part = {name: {"backbone": tree["backbone"]} for name, tree in initial.items()}
        field, loaded = "backbone", _read_backbone(source, part)
    ours = paths(part)
    skipped = patterns.matching(source.skip, ours | paths(loaded.variables), "config.init.skip")
    found, resized = _of_our_prior_size(loaded, source.prior_size)
    if ours <= skipped:
        raise UserError(
            f"config.init.skip leaves nothing to take from {loaded.origin}: skip less, or leave config.init.{field} "
            "empty"
        )
    merged = merge(part, found, skipped, f"config.init.{field} is {loaded.origin}, which")
    variables = {name: initial[name] | tree for name, tree in merged.items()}
    taken, kept = len(ours - skipped), len(paths(initial) - (ours - skipped))
    lines = [f"{taken} tensors are from {loaded.origin}; {kept or 'none'} keep their initial values."]
    if resized and PRIOR not in skipped:
        lines.append(f"The context prior is resized from {_by(loaded.prior_size)} to {_by(source.prior_size)}.")
    return sharding.on_every_device(mesh, variables), lines


def _of_our_prior_size(loaded: Loaded, ours: Size | None) -> tuple[Variables, bool]:
    """(its variables, their context prior resized if need be; whether it was)."""
    if ours is None or loaded.prior_size in (None, ours):
        return loaded.variables, False
    return resize_prior(loaded.variables, loaded.prior_size, ours), True


def _read_backbone(source: Source, part: Variables) -> Loaded:
    def read() -> Variables:
        like = {name: _shapes(tree["backbone"]) for name, tree in part.items()}
        try:
            tensors = _for_our_images(source, weights.load(source.backbone))
        except UserError as error:
            raise UserError(f"config.init.backbone: {error}, or leave it empty to train from scratch") from error
        found = weights.backbone_variables(tensors, like=like, skip=source.skip, name=source.backbone)
        return {name: {"backbone": tree} for name, tree in found.items()}

    return Loaded(processes.arrays_from_main(read), source.backbone)


def _read_checkpoint(source: Source, initial: Variables, mesh: Mesh) -> Loaded:
    # One process decides for all, since the others may not see its files.
    workdir = processes.from_main(partial(_as_workdir, source.checkpoint))
    if workdir:
        return _read_workdir(source, *workdir, mesh)
    found = processes.arrays_from_main(partial(_read_file, source, initial))
    prior = found["params"].get("context", {}).get("prior", {})
    size = _saved_prior_size(source, prior["scale"].size) if "scale" in prior else None
    return Loaded(found, source.checkpoint, size)


def _as_workdir(checkpoint: str) -> tuple[str, str | int] | None:
    """(workdir, which of its checkpoints); None where this names a file."""
    if checkpoint.startswith("hf://"):
        return None
    path = files.as_path(checkpoint)
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        return str(path.parent.parent), int(path.name)
    return (str(path), "latest") if path.is_dir() else None


def _read_workdir(source: Source, workdir: str, checkpoint: str | int, mesh: Mesh) -> Loaded:
    found = load.restore(files.as_path(workdir), mesh, checkpoint, named_by="config.init.checkpoint")
    _check_normalisation(source, workdir, found.config)
    size = build.prior_size(found.config) if found.config.model.context_prior else None
    if source.saved_prior_size and size != tuple(source.saved_prior_size):
        raise UserError(
            f"config.init.prior_size is {tuple(source.saved_prior_size)}, and the network in {workdir} was trained "
            f"with {size or 'no context prior'}: leave it empty, it is for files"
        )
    return Loaded(jax.tree.map(np.asarray, found.variables), f"{workdir}/checkpoints/{found.step}", size)


def _check_normalisation(source: Source, workdir: str, config: ml_collections.ConfigDict) -> None:
    for field, ours in (("mean", source.mean), ("std", source.std)):
        theirs = tuple(config.data[field])
        if theirs != tuple(ours):
            raise UserError(
                f"config.data.{field} is {tuple(ours)}, and the network in {workdir} was trained with {theirs}: give "
                "that"
            )


def _read_file(source: Source, initial: Variables) -> Variables:
    try:
        found = weights.load(source.checkpoint)
        weights.check_dilation(found)
        tensors = _for_our_images(source, found)
    except UserError as error:
        raise UserError(f"config.init.checkpoint: {error}, or a workdir") from error
    like = _shapes(initial)
    if source.prior_size and PRIOR_KEY in tensors:
        saved = _saved_prior_size(source, len(tensors[PRIOR_KEY]))
        like = jax.eval_shape(partial(resize_prior, old=source.prior_size, new=saved), like)
    return weights.cpnet_variables(tensors, like=like, skip=source.skip, name=source.checkpoint)


def _for_our_images(source: Source, found: weights.Weights) -> dict[str, np.ndarray]:
    return weights.adapt(found.tensors, found.pixels, mean=source.mean, std=source.std, name=found.source)


def _saved_prior_size(source: Source, positions: int) -> Size:
    """(h, w) of the prior in a file, which tells the number of its positions only.

    Square, unless it is said otherwise: 3600 positions are 60x60, and 45x80, too. Where they are as many as here and no
    square, they are taken to be the same.

    Raises:
      UserError: where it has to be said.
    """
    side, given, ours = math.isqrt(positions), tuple(source.saved_prior_size), source.prior_size
    if given:
        if math.prod(given) != positions:
            raise UserError(
                f"config.init.prior_size is {given}, but the context prior in {source.checkpoint} has {positions} "
                "positions: give height and width of the crop it was trained with, divided by 8"
            )
        return given
    square, same = side * side == positions, math.prod(ours) == positions
    if same and (not square or ours == (side, side)):
        return ours
    if square and not same:
        return side, side
    choice = f"{side}x{side} as well as {_by(ours)}" if square else "no square"
    raise UserError(
        f"the context prior in {source.checkpoint} has {positions} positions, which is {choice}: give height and width "
        "of the crop it was trained with, divided by 8, as config.init.prior_size"
    )


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
