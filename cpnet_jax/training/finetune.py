"""Fine-tuning: frozen parameters, and BatchNorms that keep their running statistics.

The training step differentiates only the trained parameters, and the optimiser sees only these. So frozen parameters
cost no backward pass and no momentum, do not decay, and stay equal bit for bit.
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
    """Splits nested dicts of parameters into (trained, frozen).

    Args:
      params: nested dicts.
      freeze: patterns on the paths of frozen parameters, see `patterns`.

    Raises:
      UserError: if a pattern matches no parameter, or no parameter is left to train.
    """
    flat = flatten_dict(params, sep="/")
    frozen = patterns.matching(freeze, flat, "config.finetune.freeze")
    if frozen and len(frozen) == len(flat):
        raise UserError("config.finetune.freeze leaves no parameter to train: freeze less")
    parts = ({path: flat[path] for path in flat if (path in frozen) is kept} for kept in (False, True))
    trained, frozen = (unflatten_dict(part, sep="/") for part in parts)
    return trained, frozen


def join(trained: PyTree, frozen: PyTree) -> PyTree:
    """Merges the two results of `split`."""
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def norms(batch_stats: PyTree, wanted: Sequence[str]) -> set[str]:
    """Paths of the BatchNorms that the patterns match, for example "backbone/layer1_0/conv1/bn".

    Args:
      batch_stats: nested dicts; a module is a BatchNorm if it has running statistics.
      wanted: the patterns, see `patterns`.

    Raises:
      UserError: if a pattern matches nothing.
    """
    paths = {path.rpartition("/")[0] for path in flatten_dict(batch_stats, sep="/")}
    return patterns.matching(wanted, paths, "config.finetune.norms_in_eval_mode")


def in_eval_mode(paths: Collection[str]) -> AbstractContextManager[None]:
    """Context in which these BatchNorms use their running statistics and do not update them, also in training."""

    def intercept(call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        if context.method_name == "__call__" and "/".join(context.module.path) in paths:
            kwargs = kwargs | {"train": False}
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)
