"""Cross entropy of upsampled logits, without arrays of all pixels and classes.

The definition, `cross_entropy(models.upsample(logits, size), labels)`, stores several arrays of batch x height x width
x classes for its backward pass. Here the gradient for the logits is computed in the same pass as the loss; derivatives
are products with it. The sums over pixels have two forms: `pixel_blocks` and `pixel_windows`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from cpnet_jax.losses import pixel_blocks, pixel_windows
from cpnet_jax.losses.cross_entropy import MeanOver, check_mean_over, labelled, weights_of
from cpnet_jax.losses.ohem import Ohem, hard_pixels

UpsampledForm = Literal["blocks", "windows"]
FORMS = {"blocks": pixel_blocks, "windows": pixel_windows}


def upsampled_cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array | np.ndarray, "b H W"],
    *,
    class_weights: Sequence[float] | Float[Array | np.ndarray, " k"] | None = None,
    ohem: Ohem | None = None,
    mean_over: MeanOver = "labelled",
    ignore_label: int = 255,
    dtype: Any = None,
    form: UpsampledForm = "blocks",
) -> Float[Array, ""]:
    """`cross_entropy` after bilinear upsampling (half-pixel centres) of the logits to the labels' size.

    Args:
      logits: unnormalised, of any size.
      labels: as in `cross_entropy`.
      class_weights: as in `cross_entropy`; they have no derivatives.
      ohem: as in `cross_entropy`. Finding the hard pixels takes one more pass, without a gradient.
      mean_over, ignore_label: as in `cross_entropy`.
      dtype: of the values at full resolution; by default that of the logits, or float32 if that is wider. jnp.bfloat16
        takes half the memory and less than half the time on TPUs. It rounds a pixel's gradient, and how far a logit is
        below the largest of its cell (relative error 2^-9). Sums are always in float32 or wider.
      form: "blocks" computes a block of rows at a time, see `pixel_blocks`. "windows" leaves it to the compiler to fuse
        each sum with all that goes into it, see `pixel_windows`: fastest on GPUs. Equal results except for rounding.

    Raises:
      ValueError: if shapes do not fit, the number of weights is not the number of classes, or `mean_over` or `form` is
        unknown.
    """
    check_mean_over(mean_over)
    if form not in FORMS:
        raise ValueError(f"form is {form!r}: it must be 'blocks' or 'windows'")
    if logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels):
        raise ValueError(
            f"logits have shape {logits.shape} and labels {labels.shape}: they must be (batch, h, w, classes) and "
            "(batch, height, width)"
        )
    dtype = jnp.dtype(jnp.promote_types(logits.dtype, jnp.float32) if dtype is None else dtype)
    target = jnp.where(labelled(labels, logits.shape[-1], ignore_label), labels.astype(jnp.int32), -1)
    if ohem:
        losses = _pixel_losses(jax.lax.stop_gradient(logits), target, dtype, form)
        target = jnp.where(hard_pixels(losses, target >= 0, ohem), target, -1)
    weights = None if class_weights is None else weights_of(target, class_weights, logits)
    return _mean_loss(logits, target, weights, dtype, mean_over, form)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def _mean_loss(
    logits: Array, target: Array, weights: Array | None, dtype: Any, mean_over: MeanOver, form: UpsampledForm
) -> Array:
    return _mean(logits, target, weights, dtype, mean_over, form, with_gradient=False)[0]


@_mean_loss.defjvp
def _derivative(
    dtype: Any,
    mean_over: MeanOver,
    form: UpsampledForm,
    primals: tuple[Array, Array, Array | None],
    tangents: tuple[Any, ...],
) -> tuple[Array, Array]:
    value, gradient = _mean(*primals, dtype, mean_over, form, with_gradient=True)
    assert gradient is not None
    return value, (gradient.astype(value.dtype) * tangents[0].astype(value.dtype)).sum()


def _mean(
    logits: Float[Array, "b h w k"],
    target: Int[Array, "b H W"],
    weights: Float[Array, "b H W"] | None,
    dtype: Any,
    mean_over: MeanOver,
    form: UpsampledForm,
    with_gradient: bool,
) -> tuple[Float[Array, ""], Float[Array, "b h w k"] | None]:
    """Mean of the loss of pixels with a target (not negative), and its gradient for the logits."""
    z, vanishing = _below_largest(logits)
    sums = partial(FORMS[form].sums, with_gradient=with_gradient)
    total, gradient = jax.lax.cond(
        vanishing, partial(sums, shifted=True), partial(sums, shifted=False), z.astype(dtype), target, weights
    )
    if mean_over == "all":
        weight = jnp.maximum(jnp.asarray(target.size, z.dtype), 1)
    elif weights is None:
        weight = jnp.maximum((target >= 0).sum().astype(z.dtype), 1)
    else:
        weight = jnp.where(target >= 0, weights, 0).sum()
        weight = jnp.where(weight == 0, 1, weight)
    return total / weight, (gradient / weight).astype(logits.dtype) if with_gradient else None


def _pixel_losses(
    logits: Float[Array, "b h w k"], target: Int[Array, "b H W"], dtype: Any, form: UpsampledForm
) -> Float[Array, "b H W"]:
    """Loss of each pixel, 0 without a target."""
    z, vanishing = _below_largest(logits)
    each = FORMS[form].each
    return jax.lax.cond(vanishing, partial(each, shifted=True), partial(each, shifted=False), z.astype(dtype), target)


def _below_largest(logits: Float[Array, "b h w k"]) -> tuple[Float[Array, "b h w k"], Bool[Array, ""]]:
    """Subtracts each cell's largest logit; also returns whether exponentials of the result might underflow.

    A constant that all classes of a pixel share does not change the loss. Interpolated values are then at most 0, so
    exp cannot overflow, and no pass at full resolution is needed to find the largest logit of a pixel. If all
    exponentials of a pixel might underflow, which logits of real networks do not cause, such a pass is needed.
    """
    z = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    z = z - z.max(axis=-1, keepdims=True)
    return z, z.min() < 0.9 * np.log(jnp.finfo(z.dtype).tiny)
