"""Poly SGD (the paper's training protocol): momentum, coupled weight decay, lr = lr0 (1 - t/T)^0.9."""

from collections.abc import Sequence
from functools import partial

import jax
import optax
from flax.traverse_util import flatten_dict, path_aware_map
from jaxtyping import PyTree

from cpnet_jax.training import patterns


def poly_schedule(
    base_lr: float, total_steps: int, *, power: float = 0.9, min_lr: float = 0.0, warmup_steps: int = 0
) -> optax.Schedule:
    """lr(t) = (base_lr - min_lr) (1 - t / total_steps)^power + min_lr, optionally with a linear warm-up.

    Args:
      base_lr: the learning rate at t = 0.
      total_steps: T, in optimiser steps.
      power: exponent of the decay (the paper: 0.9).
      min_lr: the learning rate at T (the paper: 0; the release's framework: 1e-4).
      warmup_steps: for t below it, the schedule is multiplied by (t + 1) / warmup_steps; 0: no warm-up.
    """
    poly = optax.polynomial_schedule(base_lr, min_lr, power, total_steps)
    if not warmup_steps:
        return poly
    ramp = optax.linear_schedule(1 / warmup_steps, 1.0, max(warmup_steps - 1, 1))
    return lambda step: poly(step) * ramp(step)


def poly_sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    head_lr_multiplier: float = 1.0,
    lr_multipliers: Sequence[tuple[str, float]] = (),
    decay_norm_and_bias: bool = True,
    clip_global_norm: float | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum and *coupled* weight decay, step for step what torch.optim.SGD does.

    d = g + weight_decay * p;  v = momentum * v + d;  p = p - lr * v

    Args:
      schedule: learning rate as a function of the step.
      momentum: 0.9 in the paper.
      weight_decay: 1e-4 in the paper.
      head_lr_multiplier: learning rate of everything outside `backbone`, relative to it. The paper: 1; the authors'
        code on ADE20K: 10.
      lr_multipliers: pairs of a pattern on the parameters' paths (see `patterns`) and a factor on their learning rate.
        All factors that apply to a parameter are multiplied, head_lr_multiplier included.
      decay_norm_and_bias: whether BatchNorm parameters and biases decay too (torch's default, and the paper's).
      clip_global_norm: largest norm of the whole gradient, before weight decay; None (the paper) does not clip.

    Raises:
      UserError: in the transformation's `init`, if a pattern of lr_multipliers matches no parameter.
    """
    clip = optax.clip_by_global_norm(clip_global_norm) if clip_global_norm else optax.identity()
    return optax.chain(
        clip,
        optax.add_decayed_weights(weight_decay, None if decay_norm_and_bias else _kernels),
        optax.trace(momentum),
        optax.masked(optax.scale(head_lr_multiplier), _heads),
        *(optax.masked(optax.scale(factor), partial(_matching, pattern)) for pattern, factor in lr_multipliers),
        optax.scale_by_learning_rate(schedule),
    )


def _kernels(params: PyTree) -> PyTree:
    """True for convolution kernels, False for BatchNorm parameters and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _heads(params: PyTree) -> PyTree:
    """True for everything outside the backbone."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key != "backbone", params)


def _matching(pattern: str, params: PyTree) -> PyTree:
    """True for the parameters whose path the pattern matches."""
    paths = patterns.matching([pattern], flatten_dict(params, sep="/"), "config.finetune.lr_multipliers")
    return path_aware_map(lambda path, _: "/".join(map(str, path)) in paths, params)
