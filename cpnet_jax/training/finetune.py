"""Fine-tuning: parameters that stay as they are, and BatchNorms that do.

Frozen parameters are kept apart from the others: the step differentiates and the optimiser sees the others alone. So
they cost no backward pass and no momentum, do not decay, and come out bit for bit as they went in.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from cpnet_jax.errors import UserError
from cpnet_jax.training import patterns


def split(params: PyTree, freeze: Sequence[str] = ()) -> tuple[PyTree, PyTree]:
    """(those that are trained, those that are frozen): nested dicts that share no leaf.

    Args:
      params: nested dicts.
      freeze: patterns on the parameters' paths, see `training.patterns`.

    Raises:
      UserError: on a pattern that matches no parameter, and where nothing is left to train.
    """
    flat = flatten_dict(params, sep="/")
    frozen = patterns.matching(freeze, flat, "config.finetune.freeze")
    if frozen and len(frozen) == len(flat):
        raise UserError("config.finetune.freeze leaves no parameter to train: freeze less")
    parts = ({path: flat[path] for path in flat if (path in frozen) is kept} for kept in (False, True))
    trained, frozen = (unflatten_dict(part, sep="/") for part in parts)
    return trained, frozen


def join(trained: PyTree, frozen: PyTree) -> PyTree:
    """What `split` has split."""
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def norms(batch_stats: PyTree, wanted: Sequence[str]) -> set[str]:
    """Paths of the BatchNorms that the patterns match, "backbone/layer1_0/conv1/bn" for instance.

    Args:
      batch_stats: their running statistics; whoever has some is a BatchNorm.

    Raises:
      UserError: on a pattern that matches none.
    """
    paths = {path.rpartition("/")[0] for path in flatten_dict(batch_stats, sep="/")}
    return patterns.matching(wanted, paths, "config.finetune.norms_in_eval_mode")


def in_eval_mode(paths: Collection[str]) -> AbstractContextManager[None]:
    """While it lasts, these BatchNorms use their running statistics and leave them as they are, also in training."""

    def intercept(call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        if context.method_name == "__call__" and "/".join(context.module.path) in paths:
            kwargs = kwargs | {"train": False}
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)
