"""Chooses positions to visualise, and computes their rows of the context prior and of the ideal affinity map."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from cpnet_jax.models import PriorFactors

Position = tuple[int, int]  # (row, column) in the prior's grid


def choose_positions(classes: Integer[np.ndarray, "h w"], count: int, ignore_label: int = 255) -> list[Position]:
    """Chooses positions well inside the largest regions, of as many different classes as possible.

    Args:
      classes: the class of each position of the prior, for example a label through `losses.downsample_labels`.
      count: at most this many positions are returned; fewer if there are fewer regions.

    Returns:
      (row, column) of each position, the class of the largest region first. The choice is deterministic.
    """
    from scipy import ndimage  # imported here, because only pictures need it

    regions = []  # (number of larger regions of its class, -size, position): sorts different classes to the front
    for value in np.unique(classes[classes != ignore_label]):
        numbered, found = ndimage.label(classes == value)
        sizes = np.bincount(numbered.ravel(), minlength=found + 1)[1:]
        largest = np.argsort(-sizes, kind="stable")[:count]
        regions += [(rank, -int(sizes[i]), _innermost(numbered == i + 1)) for rank, i in enumerate(largest)]
    return [position for _, _, position in sorted(regions)[:count]]


def _innermost(region: np.ndarray) -> Position:
    """The position farthest from the region's edge; ties are broken by distance to its centre."""
    from scipy import ndimage

    depth: Any = ndimage.distance_transform_edt(np.pad(region, 1))
    depth = depth[1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    middle = np.argwhere(region).mean(axis=0)
    row, column = deepest[((deepest - middle) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)


def prior_rows(prior: PriorFactors, positions: Int[Array, "b p"]) -> Float[Array, "b p n"]:
    """Computes rows P_i of each window's prior, in [0, 1], without the n x n array.

    Args:
      prior: the priors of a batch of windows.
      positions: i = row * w + column for each window, in 0 .. n - 1.
    """
    features = jnp.take_along_axis(prior.features, positions[..., None], axis=1)
    return jax.nn.sigmoid(replace(prior, features=features).logits())


def ideal_rows(classes: Integer[np.ndarray, "h w"], positions: Sequence[Position]) -> Float[np.ndarray, "p h w"]:
    """Rows of the ideal affinity map: 1 if a position has the same class as the row's, otherwise 0."""
    chosen = np.array([classes[position] for position in positions], classes.dtype)
    return (classes == chosen[:, None, None]).astype(np.float32)
