"""Pixel-wise cross entropy of the segmentation and auxiliary heads."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b h w k"], labels: Int[Array, "b h w"], *, ignore_label: int = 255
) -> Float[Array, ""]:
    """Mean over the labelled pixels of the whole batch, 0 where there is none.

    Args:
      logits: unnormalised; computed in float32 at least.
      labels: 0 .. k-1 or `ignore_label`. Other values cannot be detected under jit: check labels on the host.

    Raises:
      ValueError: where logits and labels differ in size.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits have shape {logits.shape} and labels {labels.shape}; batch, height and width differ")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    valid = labels != ignore_label
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0))
    count = valid.sum().astype(logits.dtype)
    return jnp.where(valid, losses, 0).sum() / jnp.maximum(count, 1)
