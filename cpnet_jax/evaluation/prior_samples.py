"""From a window's context prior to the rows of it that are looked at."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer, UInt8

from cpnet_jax.evaluation.samples import PriorSample
from cpnet_jax.inference.prior_maps import choose_positions, ideal_rows, prior_rows
from cpnet_jax.models import PriorFactors


def prior_sample(
    name: str,
    window: UInt8[np.ndarray, "H W 3"],
    prior: PriorFactors,
    label: Integer[np.ndarray, "h w"] | None = None,
    *,
    prediction: Integer[np.ndarray, "h w"] | None = None,
    count: int = 3,
    ignore_label: int = 255,
) -> PriorSample:
    """Rows of the prior of one window, at positions chosen from its label or, without one, from predicted classes.

    Args:
      prior: of a batch of this window alone.
      label, prediction: classes at the prior's positions (see `losses.downsample_labels`); one of them is needed.
      count: of positions at most; there are none where nothing is labelled.
    """
    classes = prediction if label is None else label
    positions = choose_positions(classes, count, ignore_label)
    flat = np.array([row * classes.shape[1] + column for row, column in positions], np.int32)
    rows = np.asarray(prior_rows(prior, jnp.asarray(flat)[None]))[0].reshape(-1, *classes.shape)
    ideal = None if label is None else ideal_rows(label, positions)
    return PriorSample(name, window, tuple(positions), rows, ideal)
