"""Pixel-wise cross entropy for the segmentation and auxiliary heads."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Integer

from cpnet_jax.losses.ohem import Ohem, hard_pixels

MeanOver = Literal["labelled", "all"]


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array | np.ndarray, "b h w"],
    *,
    class_weights: Sequence[float] | Float[Array | np.ndarray, " k"] | None = None,
    ohem: Ohem | None = None,
    mean_over: MeanOver = "labelled",
    ignore_label: int = 255,
) -> Float[Array, ""]:
    """Mean cross entropy over the pixels of the whole batch; 0 if no pixel is labelled.

    Args:
      logits: unnormalised; the loss is computed in float32 or wider.
      labels: 0 .. k-1. Pixels with `ignore_label` or any other value are ignored. A wrong value cannot raise under jit:
        check labels on the host.
      class_weights: weight of a pixel by its class, 1 by default.
      ohem: only the hard pixels contribute, see `ohem.hard_pixels`.
      mean_over: what the sum of the losses is divided by.
        "labelled": the number of pixels that contribute, or the sum of their class weights; as torch, and as
        mmsegmentation with avg_non_ignore=True (without OHEM and class weights). The paper does not say.
        "all": the number of all pixels, whether ignored or easy, and whatever their class weights; as the release, and
        as mmsegmentation 0.x by default. A batch with many ignored pixels then has a smaller loss.
      ignore_label: the label of pixels without a class.

    Raises:
      ValueError: if logits and labels differ in size, the number of weights is not the number of classes, or
        `mean_over` is unknown.
    """
    check_mean_over(mean_over)
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits have shape {logits.shape} and labels {labels.shape}: batch, height and width must agree"
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    valid = labelled(labels, logits.shape[-1], ignore_label)
    target = jnp.where(valid, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    if ohem:
        valid = hard_pixels(losses, valid, ohem)
    weights = valid.astype(logits.dtype)
    if class_weights is not None:
        weights *= weights_of(target, class_weights, logits)
    total = weights.sum() if mean_over == "labelled" else max(labels.size, 1)
    return jnp.where(valid, weights * losses, 0).sum() / jnp.where(total == 0, 1, total)


def labelled(labels: Integer[Array | np.ndarray, "b h w"], num_classes: int, ignore_label: int) -> Bool[Array, "b h w"]:
    """Whether each pixel has one of the classes: neither `ignore_label` nor a label outside 0 .. num_classes-1."""
    labels = jnp.asarray(labels, jnp.int32)  # in comparisons with uint8, 300 classes would become 44
    return (labels != ignore_label) & (labels >= 0) & (labels < num_classes)


def check_mean_over(mean_over: str) -> None:
    """Raises ValueError if `mean_over` is none of the values that `cross_entropy` knows."""
    if mean_over not in get_args(MeanOver):
        raise ValueError(f"mean_over is {mean_over!r}: it must be one of {list(get_args(MeanOver))}")


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
