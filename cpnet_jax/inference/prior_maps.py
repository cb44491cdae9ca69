"""Rows of the context prior to look at: which positions, what the network says of them, what it should say."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer
from scipy import ndimage

from cpnet_jax.models import PriorFactors

Position = tuple[int, int]  # (row, column) in the prior's grid


def choose_positions(classes: Integer[np.ndarray, "h w"], count: int, ignore_label: int = 255) -> list[Position]:
    """Positions well inside the largest regions, of as many different classes as there are.

    Args:
      classes: of the prior's positions: a label through `losses.downsample_labels`, or predicted ones.
      count: how many are wanted; fewer come back where there are fewer regions.

    Returns:
      (row, column) of each, the class of the largest region first; the same for the same classes.
    """
    regions = []  # (how many larger ones its class has, -size, inside) sorts different classes to the front
    for value in np.unique(classes[classes != ignore_label]):
        numbered, found = ndimage.label(classes == value)
        sizes = np.bincount(numbered.ravel(), minlength=found + 1)[1:]
        largest = np.argsort(-sizes, kind="stable")[:count]
        regions += [(rank, -int(sizes[i]), _innermost(numbered == i + 1)) for rank, i in enumerate(largest)]
    return [position for _, _, position in sorted(regions)[:count]]


def _innermost(region: np.ndarray) -> Position:
    """The position farthest from the region's edge; of several, the one nearest to its middle."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    middle = np.argwhere(region).mean(axis=0)
    row, column = deepest[((deepest - middle) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)


def prior_rows(prior: PriorFactors, positions: Int[Array, "b p"]) -> Float[Array, "b p n"]:
    """Rows P_i of each image's prior, in [0, 1], from the factors of these rows alone: never the n x n array.

    Args:
      prior: of a batch of windows.
      positions: i = row * w + column, for each window its own; 0 .. n - 1.
    """
    features = jnp.take_along_axis(prior.features, positions[..., None], axis=1)
    return jax.nn.sigmoid(prior.replace(features=features).logits())


def ideal_rows(classes: Integer[np.ndarray, "h w"], positions: Sequence[Position]) -> Float[np.ndarray, "p h w"]:
    """The same rows of the ideal affinity map: 1 where a position shares the class, else 0."""
    chosen = np.array([classes[position] for position in positions], classes.dtype)
    return (classes == chosen[:, None, None]).astype(np.float32)
