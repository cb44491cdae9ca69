"""Variables that were read from somewhere, put in the place of random ones: all that fits, and nothing silently."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cpnet_jax.errors import UserError

Variables = dict[str, Any]
# More differences than this are counted, and their modules named by the first part of their paths.
SHOWN = 6


def paths(variables: Variables) -> set[str]:
    """Of all leaves, without the collection they are in: "head/classifier/bias", "backbone/stem1/bn/mean"."""
    return {_path(key) for key in flatten_dict(variables, sep="/")}


def merge(initial: Variables, loaded: Variables, skipped: Collection[str], origin: str) -> Variables:
    """`initial` with every leaf that is not skipped taken from `loaded`, as a numpy array.

    Args:
      initial: {"params": ..., "batch_stats": ...}, nested dicts.
      loaded: the same, of the same shapes but for what is skipped.
      skipped: paths in either of them that are not looked at, see `paths`.
      origin: the field and what it names, for the error.

    Raises:
      UserError: on leaves that only one of them has, and on other shapes: all of them at once, and the patterns that
        would skip them.
    """
    ours, theirs = flatten_dict(initial, sep="/"), flatten_dict(loaded, sep="/")
    wanted = {key: leaf for key, leaf in ours.items() if _path(key) not in skipped}
    offered = {key: leaf for key, leaf in theirs.items() if _path(key) not in skipped}
    if differences := _differences(wanted, offered):
        raise UserError(f"{origin} does not fit this network{_advice(differences)}")
    return unflatten_dict(ours | {key: np.asarray(offered[key], leaf.dtype) for key, leaf in wanted.items()}, sep="/")


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str]:
    """Path -> what is wrong with it."""
    found = {_path(key): "is missing there" for key in ours.keys() - theirs.keys()}
    found |= {_path(key): "is there and not here" for key in theirs.keys() - ours.keys()}
    for key in ours.keys() & theirs.keys():
        if ours[key].shape != theirs[key].shape:
            found[_path(key)] = f"is {_by(theirs[key].shape)} there and {_by(ours[key].shape)} here"
    return found


def _advice(differences: dict[str, str]) -> str:
    told = [f"{path} {differences[path]}" for path in sorted(differences)]
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    modules = {path.rpartition("/")[0] for path in differences}
    if len(modules) > SHOWN:
        modules = {module.partition("/")[0] for module in modules}
    skip = ", ".join(f"'{module}/.*'" for module in sorted(modules))
    return (
        f" ({'; '.join(told[:SHOWN])}{more}): give the config.model and the classes it was trained with, or add {skip} "
        "to config.init.skip to begin anew there"
    )


def _path(key: str) -> str:
    return key.partition("/")[2]


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
