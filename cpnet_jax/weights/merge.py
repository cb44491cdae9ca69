"""Replaces initial variables by loaded ones; raises if any of them does not fit."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cpnet_jax.errors import UserError

Variables = dict[str, Any]
# Differences listed in an error; the rest is counted. Of more modules only the first part of their paths is listed.
SHOWN = 6


def paths(variables: Variables) -> set[str]:
    """Paths of all leaves, without their collection: "head/classifier/bias", "backbone/stem1/bn/mean"."""
    return {_path(key) for key in flatten_dict(variables, sep="/")}


def merge(initial: Variables, loaded: Variables, skipped: Collection[str], origin: str) -> Variables:
    """Replaces every leaf of `initial` that is not skipped by that of `loaded`, as a numpy array.

    Args:
      initial: {"params": ..., "batch_stats": ...}, nested dicts.
      loaded: the same; all shapes are equal, except in skipped leaves.
      skipped: paths (see `paths`) of leaves to ignore in both.
      origin: config field and its value, for the error.

    Raises:
      UserError: if only one of them has a leaf, or shapes differ. It lists the differences and the patterns that would
        skip them.
    """
    ours: dict[str, Any] = flatten_dict(initial, sep="/")
    theirs: dict[str, Any] = flatten_dict(loaded, sep="/")
    wanted = {key: leaf for key, leaf in ours.items() if _path(key) not in skipped}
    offered = {key: leaf for key, leaf in theirs.items() if _path(key) not in skipped}
    if differences := _differences(wanted, offered):
        raise UserError(f"{origin} does not fit this network{_advice(differences, some_skipped=bool(skipped))}")
    return unflatten_dict(ours | {key: np.asarray(offered[key], leaf.dtype) for key, leaf in wanted.items()}, sep="/")


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str]:
    """Maps the path of every leaf that does not fit to the reason."""
    found = {_path(key): "is missing there" for key in ours.keys() - theirs.keys()}
    found |= {_path(key): "is there and not here" for key in theirs.keys() - ours.keys()}
    for key in ours.keys() & theirs.keys():
        if ours[key].shape != theirs[key].shape:
            found[_path(key)] = f"is {_by(theirs[key].shape)} there and {_by(ours[key].shape)} here"
    return found


def _advice(differences: dict[str, str], *, some_skipped: bool) -> str:
    listed = [f"{path} {differences[path]}" for path in sorted(differences)]
    more = f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    modules = {path.rpartition("/")[0] for path in differences}
    if len(modules) > SHOWN:
        modules = {module.partition("/")[0] for module in modules}
    skip = ",".join(f"'{module}/.*'" for module in sorted(modules))
    way = f"add {skip} to config.init.skip" if some_skipped else f'give --config.init.skip="({skip},)"'
    return (
        f" ({'; '.join(listed[:SHOWN])}{more}): use the config.model and the classes it was trained with, or "
        f"{way} to keep the initial values there"
    )


def _path(key: str) -> str:
    return key.partition("/")[2]


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
