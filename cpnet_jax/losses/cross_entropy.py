"""Pixel-wise cross entropy for the segmentation and auxiliary heads."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Integer

from cpnet_jax.losses.ohem import Ohem, hard_pixels


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array | np.ndarray, "b h w"],
    *,
    class_weights: Sequence[float] | Float[Array | np.ndarray, " k"] | None = None,
    ohem: Ohem | None = None,
    ignore_label: int = 255,
) -> Float[Array, ""]:
    """Mean cross entropy over the labelled pixels of the whole batch; 0 if no pixel is labelled.

    Args:
      logits: unnormalised; the loss is computed in float32 or wider.
      labels: 0 .. k-1 or `ignore_label`. Other values cannot be detected under jit: check labels on the host.
      class_weights: weight of a pixel by its class, 1 by default. As in torch, the weighted sum is divided by the sum
        of the weights.
      ohem: takes the mean over the hard pixels only, see `ohem.hard_pixels`.
      ignore_label: the label of pixels without a class.

    Raises:
      ValueError: if logits and labels differ in size, or if the number of weights is not the number of classes.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits have shape {logits.shape} and labels {labels.shape}: batch, height and width must agree"
        )
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
    target: Int[Array, "b H W"],
    class_weights: Sequence[float] | Float[Array | np.ndarray, " k"],
    logits: Float[Array, "... k"],
) -> Float[Array, "b H W"]:
    """Each pixel's weight by its class, in float32 or wider.

    Raises:
      ValueError: if the number of weights is not the number of classes in the logits.
    """
    class_weights = jnp.asarray(class_weights).astype(jnp.promote_types(logits.dtype, jnp.float32))
    if class_weights.shape != logits.shape[-1:]:
        raise ValueError(
            f"class_weights have shape {class_weights.shape}: {logits.shape[-1]} classes need a weight each"
        )
    return jnp.take(class_weights, target, mode="clip")
