"""Pixel-wise cross entropy of the segmentation and auxiliary heads."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cpnet_jax.losses.ohem import Ohem, hard_pixels


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w"],
    *,
    class_weights: Float[Array, " k"] | None = None,
    ohem: Ohem | None = None,
    ignore_label: int = 255,
) -> Float[Array, ""]:
    """Mean over the labelled pixels of the whole batch, 0 where there is none.

    Args:
      logits: unnormalised; computed in float32 at least.
      labels: 0 .. k-1 or `ignore_label`. Other values cannot be detected under jit: check labels on the host.
      class_weights: of a pixel, by its class; the mean is then a weighted one, divided by the weights of the pixels it
        is over, as torch's. 1 for all unless given.
      ohem: the mean is over the hard pixels among the labelled ones, see `ohem.hard_pixels`; over all unless given.
      ignore_label: the label of pixels without a class.

    Raises:
      ValueError: where logits and labels differ in size, or there are not as many weights as classes.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits have shape {logits.shape} and labels {labels.shape}; batch, height and width differ")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    valid = labels != ignore_label
    target = jnp.where(valid, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    if ohem:
        valid = hard_pixels(losses, valid, ohem)
    weights = valid.astype(logits.dtype)
    if class_weights is not None:
        weights *= weights_of(target, class_weights, logits)
    total = weights.sum()
    return jnp.where(valid, weights * losses, 0).sum() / jnp.where(total == 0, 1, total)


def weights_of(
    target: Int[Array, "b H W"], class_weights: Float[Array, " k"], logits: Float[Array, "... k"]
) -> Float[Array, "b H W"]:
    """Each pixel's weight by its class, in float32 at least; those of logits are checked to be as many classes.

    Raises:
      ValueError: where there are not as many weights as classes.
    """
    class_weights = jnp.asarray(class_weights).astype(jnp.promote_types(logits.dtype, jnp.float32))
    if class_weights.shape != logits.shape[-1:]:
        raise ValueError(f"class_weights have shape {class_weights.shape}; there are {logits.shape[-1]} classes")
    return jnp.take(class_weights, target, mode="clip")
