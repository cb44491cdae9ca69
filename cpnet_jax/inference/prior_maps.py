"""Parts of the context prior for people: rows of chosen positions, or all of P at evenly spaced positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt8

from cpnet_jax.models import PriorFactors

Position = tuple[int, int]  # (row, column) in the prior's grid
# Rows of P that are computed at once for each window: n x ROWS numbers.
ROWS = 256


@dataclass(frozen=True)
class SampledPrior:
    """P at evenly spaced positions of its grid, in 8 bits.

    Attributes:
      grid: (h, w) of all positions.
      stride: the grid is cut into blocks of this side, and one position of each block is kept; 1 keeps all positions.
      first: row and column of the kept position in its block, or the last row and column of the grid if it ends before.
      values: round(255 P_ij) for the kept positions i and j, row-major.
      figures: precision, recall and specificity of each kept row over all n columns, in [0, 1], as in the affinity loss
        but with the diagonal; NaN if not defined. None without classes.
    """

    grid: tuple[int, int]
    stride: int
    first: int
    values: UInt8[np.ndarray, "p p"]
    figures: Float[np.ndarray, "p 3"] | None = None

    def thinned(self, most: int) -> "SampledPrior":
        """The same at `most` positions or fewer, at least one."""
        if len(self.values) <= max(most, 1):
            return self
        blocks = [-(-side // self.stride) for side in self.grid]
        kept = np.arange(len(self.values)).reshape(blocks)[::2, ::2].ravel()
        figures = None if self.figures is None else self.figures[kept]
        values = self.values[np.ix_(kept, kept)]
        return SampledPrior(self.grid, 2 * self.stride, self.first, values, figures).thinned(most)


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


def kept_positions(grid: tuple[int, int], stride: int, first: int) -> Int[np.ndarray, " p"]:
    """Row-major indices of the positions that are kept, see `SampledPrior`."""
    rows, columns = (np.minimum(np.arange(0, side, stride) + first, side - 1) for side in grid)
    return (rows[:, None] * grid[1] + columns).ravel().astype(np.int32)


def least_stride(grid: tuple[int, int], most: int) -> int:
    """The smallest stride that keeps at most `most` positions of a grid, at least one."""
    return next(k for k in range(1, max(grid) + 1) if -(-grid[0] // k) * -(-grid[1] // k) <= max(most, 1))


def sample_priors(
    prior: PriorFactors, grid: tuple[int, int], most: int, classes: Integer[np.ndarray, "b n"] | None = None
) -> Iterator[SampledPrior]:
    """Yields the prior of each window of a batch at `most` positions or fewer.

    Args:
      prior: the priors of a batch of windows.
      grid: (h, w) of the positions; n = h * w.
      most: how many positions to keep.
      classes: the class of each position, for the figures. An ignore label counts as one more class.
    """
    stride = least_stride(grid, most)
    first = stride // 2
    kept = kept_positions(grid, stride, first)
    batch, n = prior.shape[:2]
    given = np.zeros((batch, n), np.int32) if classes is None else classes.astype(np.int32)
    # Blocks of equal size need one program; the last one is padded with position 0.
    padded = np.pad(kept, (0, -len(kept) % min(ROWS, len(kept))))
    found = [
        jax.device_get(_sample(prior, jnp.asarray(rows), jnp.asarray(kept), jnp.asarray(given)))
        for rows in padded.reshape(-1, min(ROWS, len(kept)))
    ]
    values, figures = (np.concatenate(part, axis=1)[:, : len(kept)] for part in zip(*found, strict=True))
    for i in range(batch):
        yield SampledPrior(grid, stride, first, values[i], None if classes is None else figures[i])


@jax.jit
def _sample(
    prior: PriorFactors, rows: Int[Array, " r"], kept: Int[Array, " p"], classes: Int[Array, "b n"]
) -> tuple[UInt8[Array, "b r p"], Float[Array, "b r 3"]]:
    p = prior_rows(prior, jnp.broadcast_to(rows, (classes.shape[0], rows.shape[0])))
    a = classes[:, rows, None] == classes[:, None, :]
    inside = jnp.where(a, p, 0).sum(-1)
    same, other = a.sum(-1), (~a).sum(-1)
    shares = inside / p.sum(-1), inside / same, jnp.where(a, 0, 1 - p).sum(-1) / other
    return jnp.round(255 * p[..., kept]).astype(jnp.uint8), jnp.stack(shares, axis=-1).astype(jnp.float32)


def ideal_rows(classes: Integer[np.ndarray, "h w"], positions: Sequence[Position]) -> Float[np.ndarray, "p h w"]:
    """Rows of the ideal affinity map: 1 if a position has the same class as the row's, otherwise 0."""
    chosen = np.array([classes[position] for position in positions], classes.dtype)
    return (classes == chosen[:, None, None]).astype(np.float32)
