"""Loads the variables that training starts from: a pretrained backbone, or a whole trained network."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.runtime import files, processes
from cpnet_jax.training import patterns
from cpnet_jax.weights import hub, tensor_files
from cpnet_jax.weights.agreement import PRIOR_KEY, Numbers, differing_names, differing_unseen, unseen
from cpnet_jax.weights.merge import Variables, merge, paths
from cpnet_jax.weights.resize_prior import Size, resize_prior

PRIOR, CLASSIFIER = "context/prior/kernel", "head/classifier/kernel"


@dataclass(frozen=True)
class StartingPoint:
    """The fields of config.init, and the fields of the network that loaded weights must agree with.

    Attributes:
      backbone: file or hf://... of a pretrained backbone; "" for none.
      checkpoint: a workdir, one of its checkpoints, DIR/checkpoints/STEP, or a file or hf://... of a whole CPNet in the
        authors' layout; "" for none. If set, `backbone` is not read.
      skip: patterns (see `patterns`) of variables that keep their initial values, or exist only in the checkpoint.
      saved_prior_size: (h, w) of the context prior in a file; empty to infer it.
      prior_size: (h, w) of this network's context prior; None if it has none.
      mean, std: by which this network's images are normalised.
      classes: names of this network's classes; empty if they are unknown.
      unseen: what tensors do not show of this network, see `agreement.unseen`.
    """

    backbone: str
    checkpoint: str
    skip: Sequence[str]
    saved_prior_size: Sequence[int]
    prior_size: Size | None
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[str] = ()
    unseen: Mapping[str, Numbers] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """Variables read from a file or workdir.

    Attributes:
      variables: as numpy arrays.
      origin: where they are from.
      prior_size: (h, w) of their context prior; None without one.
      classes: names of the network's classes; empty if they are unknown.
      unseen: what tensors do not show of the network, as far as it is known.
    """

    variables: Variables
    origin: str
    prior_size: Size | None = None
    classes: Sequence[str] = ()
    unseen: Mapping[str, Numbers] = dataclasses.field(default_factory=dict)


def check_exists(backbone: str, checkpoint: str) -> None:
    """Raises UserError if config.init names a file or workdir that does not exist; the hub is not asked."""
    field, location = ("checkpoint", checkpoint) if checkpoint else ("backbone", backbone)
    if not location or location.startswith(hub.PREFIX):
        return
    if checkpoint and (workdir := _as_workdir(checkpoint)):
        load.check_holds_checkpoints(files.as_path(workdir[0]), "config.init.checkpoint")
        return
    with _named_by(field):
        tensor_files.check_exists(files.as_path(location))


@contextmanager
def _named_by(field: str) -> Iterator[None]:
    """Adds a field of config.init and its alternative to the message of a UserError."""
    try:
        yield
    except UserError as error:
        alternative = "set it to '' to train from scratch" if field == "backbone" else "name a workdir"
        raise UserError(f"config.init.{field}: {error}, or {alternative}") from error


def start_from(start: StartingPoint, initial: Variables, mesh: Mesh) -> tuple[Variables, list[str]]:
    """Loads the variables that training starts from.

    Process 0 reads files for all processes, so that a file is needed on one host only, is downloaded once, and gives
    every process the same bits. All processes read a workdir, which is on a shared disk.

    Args:
      start: where to load from.
      initial: {"params": ..., "batch_stats": ...} of the whole network, on every device of the mesh.

    Returns:
      (variables like `initial`, lines to print; none if there is nothing to load).

    Raises:
      UserError: if the weights cannot be read or do not fit the network.
    """
    if not start.checkpoint and not start.backbone:
        return initial, []
    if start.checkpoint:
        field, part, loaded = "checkpoint", initial, _read_checkpoint(start, initial, mesh)
    else:
        part = {name: {"backbone": tree["backbone"]} for name, tree in initial.items()}
        field, loaded = "backbone", _read_backbone(start, part)
    ours = paths(part)
    skipped = patterns.matching(start.skip, ours | paths(loaded.variables), "config.init.skip")
    found, resized = _with_prior_size(loaded, start.prior_size)
    if ours <= skipped:
        raise UserError(
            f"config.init.skip leaves nothing to take from {loaded.origin}: skip less, or set config.init.{field} to ''"
        )
    merged = merge(part, found, skipped, f"config.init.{field} is {loaded.origin}, which")
    variables = {name: initial[name] | tree for name, tree in merged.items()}
    taken, kept = len(ours - skipped), len(paths(initial) - (ours - skipped))
    lines = [f"{taken} tensors are from {loaded.origin}; {kept or 'none'} keep their initial values."]
    if resized and PRIOR not in skipped:
        lines.append(f"The context prior is resized from {_by(loaded.prior_size)} to {_by(start.prior_size)}.")
    names = differing_names(loaded.classes, start.classes)
    if names and CLASSIFIER not in skipped:
        lines.append(
            f"Note: {loaded.origin} has other classes ({names}), and training starts from its classifiers: to start "
            "from new ones, --config.init.skip='(aux_)?head/classifier/.*'"
        )
    lines += [
        f"Note: {loaded.origin} was trained with config.model.{name}={theirs}, and it is {ours} here; tensors do not "
        "show this"
        for name, (theirs, ours) in differing_unseen(loaded.unseen, start.unseen).items()
    ]
    return sharding.on_every_device(mesh, variables), lines


def _with_prior_size(loaded: Loaded, ours: Size | None) -> tuple[Variables, bool]:
    """Returns the variables, with the context prior resized if necessary, and whether it was."""
    if ours is None or loaded.prior_size is None or loaded.prior_size == ours:
        return loaded.variables, False
    return resize_prior(loaded.variables, loaded.prior_size, ours), True


def _read_backbone(start: StartingPoint, part: Variables) -> Loaded:
    def read() -> Variables:
        like = {name: _shapes(tree["backbone"]) for name, tree in part.items()}
        with _named_by("backbone"):
            tensors = _with_our_normalization(start, weights.load(start.backbone))
        found = weights.backbone_variables(tensors, like=like, skip=start.skip, name=start.backbone)
        return {name: {"backbone": tree} for name, tree in found.items()}

    return Loaded(processes.arrays_from_main(read), start.backbone)


def _read_checkpoint(start: StartingPoint, initial: Variables, mesh: Mesh) -> Loaded:
    # Process 0 decides for all: the others may not see its files.
    workdir = processes.from_main(partial(_as_workdir, start.checkpoint))
    if workdir:
        return _read_workdir(start, *workdir, mesh)
    files_read: list[Loaded] = []

    def read() -> Variables:
        files_read.append(_read_file(start, initial))
        return files_read[0].variables

    variables = processes.arrays_from_main(read)
    found = processes.from_main(lambda: replace(files_read[0], variables={}))
    return replace(found, variables=variables)


def _as_workdir(checkpoint: str) -> tuple[str, str | int] | None:
    """Returns (workdir, its checkpoint: a step or "latest"); None if this is a file."""
    if checkpoint.startswith("hf://"):
        return None
    path = files.as_path(checkpoint)
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        return str(path.parent.parent), int(path.name)
    return (str(path), "latest") if path.is_dir() else None


def _read_workdir(start: StartingPoint, workdir: str, checkpoint: str | int, mesh: Mesh) -> Loaded:
    found = load.restore(files.as_path(workdir), mesh, checkpoint, named_by="config.init.checkpoint")
    _check_normalization(start, workdir, found.config)
    size = build.fixed_prior_size(found.config)
    if start.saved_prior_size and size != tuple(start.saved_prior_size):
        raise UserError(
            f"config.init.prior_size is {tuple(start.saved_prior_size)}, but the network in {workdir} was trained "
            f"with {size or 'no context prior of positions'}: set it to (), since it is needed for files only"
        )
    variables, origin = jax.tree.map(np.asarray, found.variables), f"{workdir}/checkpoints/{found.step}"
    return Loaded(variables, origin, size, found.dataset.classes, unseen(found.config))


def _check_normalization(start: StartingPoint, workdir: str, config: ml_collections.ConfigDict) -> None:
    for field, ours in (("mean", start.mean), ("std", start.std)):
        theirs = tuple(config.data[field])
        if theirs != tuple(ours):
            raise UserError(
                f"config.data.{field} is {tuple(ours)}, but the network in {workdir} was trained with {theirs}: set it "
                "to that"
            )


def _read_file(start: StartingPoint, initial: Variables) -> Loaded:
    with _named_by("checkpoint"):
        found = weights.load(start.checkpoint)
        weights.check_dilation(found)
        tensors = _with_our_normalization(start, found)
    like, size = _shapes(initial), None
    if start.prior_size and PRIOR_KEY in tensors:
        size = _saved_prior_size(start, len(tensors[PRIOR_KEY]), found.crop_size)
        like = jax.eval_shape(partial(resize_prior, old=start.prior_size, new=size), like)
    variables = weights.cpnet_variables(tensors, like=like, skip=start.skip, name=start.checkpoint)
    return Loaded(variables, start.checkpoint, size, found.classes, found.network)


def _with_our_normalization(start: StartingPoint, found: weights.PyTorchWeights) -> dict[str, np.ndarray]:
    return weights.adapt(found.tensors, found.normalization, mean=start.mean, std=start.std, name=found.location)


def _saved_prior_size(start: StartingPoint, positions: int, crop_size: Size | None) -> Size:
    """Infers (h, w) of the context prior in a file from its number of positions.

    The number alone is ambiguous: 3600 positions are 60x60 or 45x80. If neither the file nor `saved_prior_size` states
    the size, it is either this network's or the square.

    Raises:
      UserError: if `saved_prior_size` does not fit, or is empty although both sizes fit or neither does.
    """
    side, given, ours = math.isqrt(positions), tuple(start.saved_prior_size), start.prior_size or (0, 0)
    if crop_size:
        height, width = (length // OUTPUT_STRIDE for length in crop_size)
        if given not in ((), (height, width)):
            raise UserError(
                f"config.init.prior_size is {given}, but {start.checkpoint} was trained with {(height, width)}: set it "
                "to (), since the file states its size"
            )
        return height, width
    if given:
        if math.prod(given) != positions:
            raise UserError(
                f"config.init.prior_size is {given}, but the context prior in {start.checkpoint} has {positions} "
                "positions: set it to height and width of the crop it was trained with, divided by 8"
            )
        return given[0], given[1]
    square, same = side * side == positions, math.prod(ours) == positions
    if same and (not square or ours == (side, side)):
        return ours
    if square and not same:
        return side, side
    problem = f"can be {side}x{side} or {_by(ours)}" if square else "are not a square"
    raise UserError(
        f"the context prior in {start.checkpoint} has {positions} positions, which {problem}: set "
        "config.init.prior_size to height and width of the crop it was trained with, divided by 8"
    )


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _by(size: Sequence[int] | None) -> str:
    return "x".join(map(str, size or ()))
