"""One optimiser step: a pure function of (state, batch), written for the *global* batch.

Under jit, with the batch split over a mesh and the state replicated, BatchNorm statistics and counts of labelled pixels
are global by construction, on any number of devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Integer, Num, PyTree

from cpnet_jax.training import finetune
from cpnet_jax.training.state import TrainState, choose

# "image" and "label": uint8 from the input pipeline; any numbers that `normalize` and the loss accept
Batch = dict[str, Num[Array, "b h w 3"] | Integer[Array, "b h w"]]
# (model output, labels) -> (loss, its terms by name); a term named "loss" is shown in its place.
Loss = Callable[..., tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]
# labels -> the `targets` argument of `models.CPNet`
Targets = Callable[[Int[Array, "b h w"]], Any]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    loss: Loss,
    tx: optax.GradientTransformation,
    normalize: Callable[[Num[Array, "b h w 3"]], Float[Array, "b h w 3"]],
    targets: Targets | None = None,
    accumulate: int = 1,
    skip_nonfinite: int = 0,
    freeze: Sequence[str] = (),
    norms_in_eval_mode: Sequence[str] = (),
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Takes one optimiser step; returns the new state and metrics.

    Args:
      state: the state before the step.
      batch: uint8 "image" (RGB) and "label", see `data.stream`.
      model: a linen module of normalised images.
      loss: (model output, labels) -> (loss, its terms by name).
      tx: the optimiser.
      normalize: uint8 images -> normalised images.
      targets: labels -> `targets` of the model. It then sums the affinity loss's terms in its forward pass: faster,
        with the same values.
      accumulate: number of parts of the batch that are computed one after the other, with their gradients averaged:
        less memory, more time. BatchNorm statistics and counts of labelled pixels are those of each part.
      skip_nonfinite: consecutive non-finite steps to skip before stopping, see `state.choose`.
      freeze: patterns of the parameters that are not trained, the same as for `create_state`.
      norms_in_eval_mode: patterns of the BatchNorms that use their running statistics and do not update them.

    Returns:
      The new state, and scalars: loss, its terms, the global norm of the gradient, and the new state's `skipped`.

    Raises:
      ValueError: if the batch is not divisible by `accumulate`.
      UserError: if a pattern matches nothing.
    """
    dropout_key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    trained, frozen = finetune.split(state.params, freeze)
    resting_norms = finetune.norms(state.batch_stats, norms_in_eval_mode)

    def loss_of(trained: PyTree, batch_stats: PyTree, key: jax.Array, part: Batch) -> tuple[Array, Any]:
        labels = part["label"].astype(jnp.int32)
        with finetune.in_eval_mode(resting_norms):
            output, updates = model.apply(
                {"params": finetune.join(trained, frozen), "batch_stats": batch_stats},
                normalize(part["image"]),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
                **({"targets": targets(labels)} if targets else {}),
            )
        with jax.named_scope("losses"):
            value, terms = loss(output, labels)
        return value, (updates["batch_stats"], {"loss": value} | terms)

    def gradients(batch_stats: PyTree, key_and_part: tuple[jax.Array, Batch]) -> tuple[PyTree, Any]:
        grad, (batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(trained, batch_stats, *key_and_part)
        return batch_stats, (grad, metrics)

    if accumulate == 1:
        batch_stats, (grad, metrics) = gradients(state.batch_stats, (dropout_key, batch))
    else:
        parts = (jax.random.split(dropout_key, accumulate), jax.tree.map(partial(_in_parts, accumulate), batch))
        batch_stats, stacked = jax.lax.scan(gradients, state.batch_stats, parts)
        grad, metrics = jax.tree.map(lambda x: x.mean(axis=0), stacked)

    with jax.named_scope("optimiser"):
        updates, opt_state = tx.update(grad, state.opt_state, trained)
        new_state = replace(
            state,
            step=state.step + 1,
            params=finetune.join(optax.apply_updates(trained, updates), frozen),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        metrics |= {"gradient_norm": optax.tree.norm(grad)}
        finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
        new_state = choose(state, new_state, finite, skip_nonfinite)
    return new_state, metrics | {"skipped": new_state.skipped}


def _in_parts(parts: int, x: Array) -> Array:
    """Reshapes (b, ...) to (parts, b / parts, ...). Part i has every parts-th example, so no data crosses devices."""
    if x.shape[0] % parts:
        raise ValueError(f"a batch of {x.shape[0]} is not divisible into {parts} parts")
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
