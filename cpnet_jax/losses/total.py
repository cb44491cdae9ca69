"""The training objective of the paper: L = L_s + 0.4 L_a + 1.0 L_p."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Integer

from cpnet_jax.losses.affinity import affinity_loss, downsample_labels, weighted_sum
from cpnet_jax.losses.cross_entropy import MeanOver
from cpnet_jax.losses.ohem import Ohem
from cpnet_jax.losses.upsampled import upsampled_cross_entropy


def total_loss(
    output: Any,
    labels: Integer[Array | np.ndarray, "b H W"],
    *,
    prior_size: tuple[int, int],
    aux_weight: float = 0.4,
    prior_weight: float = 1.0,
    class_weights: Sequence[float] | Float[Array | np.ndarray, " k"] | None = None,
    ohem: Ohem | None = None,
    mean_over: MeanOver = "labelled",
    upsampled_dtype: Any = None,
    ignore_label: int = 255,
    **affinity_options: Any,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Computes the objective and its terms.

    Args:
      output: has `logits`, `aux_logits` and `prior` (see `models.CPNetOutput`). A term whose output is None is left
        out.
      labels: full-resolution class indices.
      prior_size: (h, w) of the feature map.
      aux_weight, prior_weight: weights of the auxiliary loss L_a and of the affinity loss L_p. With the number 0, a
        term is computed but not differentiated.
      class_weights: of pixels in L_s and L_a, see `cross_entropy`.
      ohem: bootstraps the cross entropy of L_s, see `cross_entropy`; not of L_a, as in mmsegmentation's configs. The
        authors' settings for Cityscapes are not public.
      mean_over: pixels whose number L_s and L_a are divided by, see `cross_entropy`.
      upsampled_dtype: of the values at full resolution, see `upsampled_cross_entropy`.
      affinity_options: see `affinity_loss`.

    Returns:
      (loss, terms): terms are unweighted scalars named segmentation, aux, affinity_unary, affinity_precision,
      affinity_recall, affinity_specificity.
    """
    pixelwise = partial(
        upsampled_cross_entropy,
        labels=labels,
        class_weights=class_weights,
        mean_over=mean_over,
        ignore_label=ignore_label,
        dtype=upsampled_dtype,
    )
    terms = {"segmentation": pixelwise(output.logits, ohem=ohem)}
    weighted: list[tuple[float, Array]] = [(1, terms["segmentation"])]
    if output.aux_logits is not None:
        terms["aux"] = pixelwise(output.aux_logits)
        weighted.append((aux_weight, terms["aux"]))
    if output.prior is not None:
        positions = downsample_labels(labels, prior_size)
        affinity = affinity_loss(output.prior, positions, ignore_label=ignore_label, **affinity_options)
        terms |= {f"affinity_{name}": value for name, value in affinity._asdict().items() if name != "total"}
        weighted.append((prior_weight, affinity.total))
    return weighted_sum(*weighted), terms
