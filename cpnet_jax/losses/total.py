"""The training objective of the paper: L = L_s + 0.4 L_a + 1.0 L_p."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from cpnet_jax.losses.affinity import affinity_loss_to_read, downsample_labels, weighted_sum
from cpnet_jax.losses.cross_entropy import MeanOver
from cpnet_jax.losses.ohem import Ohem
from cpnet_jax.losses.upsampled import UpsampledForm, upsampled_cross_entropy

# Further terms by name; a config file adds its own, see docs/extending.md. They are functions of the arrays of
# `total_loss`: (output, labels, *, prior_size, ignore_label) -> scalar. prior_size is (h, w) of the logits.
TERMS: dict[str, Callable[..., Float[Array, ""]]] = {}


def total_loss(
    output: Any,
    labels: Integer[Array | np.ndarray, "b H W"],
    *,
    aux_weight: float = 0.4,
    prior_weight: float = 1.0,
    class_weights: Sequence[float] | Float[Array | np.ndarray, " k"] | None = None,
    ohem: Ohem | None = None,
    mean_over: MeanOver = "labelled",
    upsampled_dtype: Any = None,
    upsampled_form: UpsampledForm = "blocks",
    term_weights: Mapping[str, float] | None = None,
    ignore_label: int = 255,
    real: Bool[Array | np.ndarray, "b h w"] | None = None,
    **affinity_options: Any,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Computes the objective and its terms.

    Args:
      output: has `logits`, `aux_logits` and `prior` (see `models.CPNetOutput`). A term whose output is None is left
        out.
      labels: full-resolution class indices.
      aux_weight, prior_weight: weights of the auxiliary loss L_a and of the affinity loss L_p. With the number 0, a
        term is computed but not differentiated.
      class_weights: of pixels in L_s and L_a, see `cross_entropy`.
      ohem: bootstraps the cross entropy of L_s, see `cross_entropy`; not of L_a, as in mmsegmentation's configs. The
        authors' settings for Cityscapes are not public.
      mean_over: pixels whose number L_s and L_a are divided by, see `cross_entropy`.
      upsampled_dtype, upsampled_form: `dtype` and `form` of `upsampled_cross_entropy`.
      term_weights: names in TERMS and their weights.
      real: False for cells of the logits that only pad an image, as for `models.CPNet`. They are in no mean. In
        `labels` they must have the ignore label, by which the terms of TERMS know them. None: all are real.
      affinity_options: see `affinity_loss`.

    Returns:
      (loss, terms): terms are unweighted scalars named segmentation, aux, affinity_unary, affinity_precision,
      affinity_recall, affinity_specificity, and those of `term_weights`. They are for people: the affinity's leave out
      what clamped rows add, see `ReadableLoss`. "clamped_rows" is the share of these rows, and "loss" is the loss
      without what they add.
    """

    def pixelwise(logits: Float[Array, "b h w k"], ohem: Ohem | None = None) -> Float[Array, ""]:
        value = upsampled_cross_entropy(
            logits,
            labels,
            class_weights=class_weights,
            ohem=ohem,
            mean_over=mean_over,
            ignore_label=ignore_label,
            dtype=upsampled_dtype,
            form=upsampled_form,
        )
        # The mean over all pixels counts padding; that over labelled pixels does not.
        return value / jnp.mean(real, dtype=value.dtype) if real is not None and mean_over == "all" else value

    prior_size = output.logits.shape[1:3]
    terms = {"segmentation": pixelwise(output.logits, ohem=ohem)}
    weighted: list[tuple[float, Array]] = [(1, terms["segmentation"])]
    if output.aux_logits is not None:
        terms["aux"] = pixelwise(output.aux_logits)
        weighted.append((aux_weight, terms["aux"]))
    for name, weight in (term_weights or {}).items():
        own = _for_own_labels(output)
        terms[name] = TERMS[name](own, labels, prior_size=prior_size, ignore_label=ignore_label)
        weighted.append((weight, terms[name]))
    if output.prior is None:
        return weighted_sum(*weighted), terms
    positions = downsample_labels(labels, prior_size)
    options = {"ignore_label": ignore_label, "real": real if real is None else jnp.reshape(real, positions.shape)}
    affinity, to_read = affinity_loss_to_read(output.prior, positions, **options, **affinity_options)
    terms |= {f"affinity_{name}": value for name, value in to_read.loss._asdict().items() if name != "total"}
    terms["clamped_rows"] = to_read.clamped
    terms["loss"] = weighted_sum(*weighted, (prior_weight, to_read.loss.total))
    return weighted_sum(*weighted, (prior_weight, affinity.total)), terms


def _for_own_labels(output: Any) -> Any:
    """The output for a term of TERMS, which may change the labels: known sums of the prior are of the network's."""
    if getattr(output.prior, "known", None) is None:
        return output
    return output._replace(prior=output.prior.replace(known=None))
