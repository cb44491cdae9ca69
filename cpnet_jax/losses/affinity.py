"""The Affinity Loss (the paper's section of that name).

A context prior P, one row a position, is taught to be the ideal affinity map A (a_ij = 1 where positions i and j share
a class): pair by pair with a binary cross entropy, and row by row through precision, recall and specificity. All it
needs of the n x n pairs are sums over rows, which `AffinityTargets` takes of as many rows at a time as it is given.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The release's binary cross entropy (torch's) clamps logarithms here.
MIN_LOG = -100.0


class AffinityLoss(NamedTuple):
    """Scalars, unweighted but for the total (see `affinity_loss`).

    The three global terms are the means over rows of -log of the quantity they are named after.
    """

    total: Float[Array, ""]
    unary: Float[Array, ""]
    precision: Float[Array, ""]
    recall: Float[Array, ""]
    specificity: Float[Array, ""]


def downsample_labels(labels: Int[Array, "b H W"], size: tuple[int, int]) -> Int[Array, "b n"]:
    """Labels at the prior's resolution by nearest neighbour: the top-left pixel of each cell, row-major, n = h * w.

    Args:
      labels: class indices.
      size: (h, w) of the feature map.

    Raises:
      ValueError: where (h, w) does not divide (H, W).
    """
    b, height, width = labels.shape
    h, w = size
    if h < 1 or w < 1 or height % h or width % w:
        raise ValueError(f"labels of {height}x{width} cannot be sampled to {h}x{w}: the sides must divide")
    return labels[:, :: height // h, :: width // w].reshape(b, h * w)


def ideal_affinity_map(labels: Int[Array, "b n"], ignore_label: int = 255) -> Float[Array, "b n n"]:
    """A = L L^T of the one-hot labels L: 1 where two positions share a class.

    Ignored positions form one more class, as in the release: `ignore_label` is one more value to compare.
    """
    del ignore_label  # Part of the signature for symmetry; equality needs no special case.
    return (labels[:, :, None] == labels[:, None, :]).astype(jnp.float32)


class RowSums(NamedTuple):
    """Sums over the columns of each row; all that the loss needs of the n x n pairs."""

    cross_entropy: Float[Array, "b r"]  # sum_j BCE(p, a)
    true_positive: Float[Array, "b r"]  # sum_j a p
    predicted: Float[Array, "b r"]  # sum_j p
    true_negative: Float[Array, "b r"]  # sum_j (1 - a)(1 - p)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AffinityTargets:
    """What the ideal affinity map says of each pair of positions, without the map.

    A network that is given them (`models.CPNet`) takes the loss's sums in the same pass over the prior as its contexts.

    Attributes:
      labels, exclude_diagonal, ignored, ignore_label: see `affinity_loss`.

    Raises:
      ValueError: on another `ignored`.
    """

    labels: Int[Array, "b n"]
    exclude_diagonal: bool = field(default=True, metadata={"static": True})
    ignored: Literal["class", "mask"] = field(default="class", metadata={"static": True})
    ignore_label: int = field(default=255, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.ignored not in ("class", "mask"):
            raise ValueError(f"ignored is {self.ignored!r}; it must be 'class' or 'mask'")

    @property
    def valid(self) -> Bool[Array, "b n"]:
        """The positions that count."""
        return self.labels != self.ignore_label if self.ignored == "mask" else jnp.ones_like(self.labels, bool)

    def row_sums(self, logits: Float[Array, "b r n"], rows: Int[Array, " r"]) -> RowSums:
        """The sums over the columns of these rows of the logits Z, in their dtype."""
        column = self.valid[:, None, :]
        same = jnp.take(self.labels, rows, axis=1, mode="clip")[:, :, None] == self.labels[:, None, :]
        target = same & column
        if self.exclude_diagonal:
            target &= rows[:, None] != jnp.arange(self.labels.shape[1])
        other = ~same & column
        p = jax.nn.sigmoid(logits)
        cross_entropy = _softplus(jnp.where(same, -logits, logits))
        return RowSums(
            cross_entropy=jnp.where(column, cross_entropy, 0).sum(axis=2),
            true_positive=jnp.where(target, p, 0).sum(axis=2),
            predicted=jnp.where(column, p, 0).sum(axis=2),
            # sigmoid(-z) rather than 1 - p, which is exactly 0 in float32 from z = 17 on.
            true_negative=jnp.where(other, jax.nn.sigmoid(-logits), 0).sum(axis=2),
        )

    def counts(self) -> tuple[Int[Array, "b n"], Int[Array, "b n"]]:
        """(sum_j a, sum_j (1 - a)) of each row that counts; of the others some number."""
        in_order = jnp.sort(self.labels, axis=1)
        first, after = (
            jax.vmap(partial(jnp.searchsorted, side=side, method="sort"))(in_order, self.labels)
            for side in ("left", "right")
        )
        alike = after - first
        return alike - self.exclude_diagonal, self.valid.sum(axis=1, keepdims=True) - alike


def affinity_loss(
    prior: Float[Array, "b n n"] | Any,
    labels: Int[Array, "b n"],
    *,
    unary_weight: float = 1.0,
    global_weight: float = 1.0,
    precision_weight: float = 1.0,
    recall_weight: float = 1.0,
    specificity_weight: float = 1.0,
    exclude_diagonal: bool = True,
    ignored: Literal["class", "mask"] = "class",
    ignore_label: int = 255,
) -> AffinityLoss:
    """L_p = unary_weight * L_u + global_weight * L_g, safe under jit and grad in every corner.

    L_g is the sum of precision, recall and specificity, each with its weight.

    Everything is computed from logits: a saturated prior keeps its gradient and no logarithm of zero is taken.

    Args:
      prior: logits Z of the prior, P = sigmoid(Z), row i = position i; or anything that has the `shape` of these and a
        method `row_sums(targets)`, such as `models.PriorFactors`, with which no n x n array is stored. Where a network
        was given `AffinityTargets` with these options, the sums that it took are used: they are of *its* labels.
      labels: class of each position (see `downsample_labels`).
      unary_weight, global_weight: lambda_u and lambda_g (the paper: 1 and 1).
      precision_weight, recall_weight, specificity_weight: of the three in L_g (the paper: 1 each). A term whose weight
        is the number 0 is no part of the total: it is not differentiated, whatever it is.
      exclude_diagonal: leave i = j out of recall (numerator and denominator) and of precision's numerator, but not
        of its denominator, as in the release. False is the paper's formula to the letter.
      ignored: what positions with `ignore_label` are. "class": one more class (the release). "mask": their rows and
        columns leave every sum and mean; an image without any label contributes nothing.
      ignore_label: the label of ignored positions.

    Returns:
      The loss and its terms. A denominator of zero counts as 1 and a logarithm is at least -100, as in the release:
      a row whose precision, recall or specificity is exactly zero adds 100 and has no gradient.

    Raises:
      ValueError: on shapes that do not fit, or another `ignored`.
    """
    targets = AffinityTargets(labels, exclude_diagonal, ignored, ignore_label)
    if not hasattr(prior, "row_sums"):
        prior = _Logits(prior)
    _check(prior.shape, labels.shape)
    sums, valid = prior.row_sums(targets), targets.valid
    positive, negative = (count.astype(sums.predicted.dtype) for count in targets.counts())

    pairs = (valid.sum(axis=1).astype(sums.predicted.dtype) ** 2).sum()
    unary = jnp.where(valid, sums.cross_entropy, 0).sum() / _one_if_zero(pairs)
    precision = _mean_negative_log(sums.true_positive, sums.predicted, valid)
    recall = _mean_negative_log(sums.true_positive, positive, valid)
    specificity = _mean_negative_log(sums.true_negative, negative, valid)
    total = weighted_sum(
        (unary_weight, unary),
        (global_weight * precision_weight, precision),
        (global_weight * recall_weight, recall),
        (global_weight * specificity_weight, specificity),
    )
    return AffinityLoss(total, unary, precision, recall, specificity)


def weighted_sum(*terms: tuple[float, Float[Array, ""]]) -> Float[Array, ""]:
    """Of (weight, term), without the terms whose weight is the number 0: 0 * inf would be NaN, and cost a backward."""
    zero = jnp.zeros_like(terms[0][1])
    return sum((weight * term for weight, term in terms if not (isinstance(weight, int | float) and weight == 0)), zero)


class _Logits:
    """A prior that is there as its logits: all rows at once."""

    def __init__(self, logits: Float[Array, "b n n"]) -> None:
        logits = jnp.asarray(logits)
        self._logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        self.shape = logits.shape

    def row_sums(self, targets: AffinityTargets) -> RowSums:
        return targets.row_sums(self._logits, jnp.arange(self.shape[1]))


def _mean_negative_log(
    numerator: Float[Array, "b n"], denominator: Float[Array, "b n"], valid: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """-log(numerator / denominator), clamped at 100, averaged over the valid rows of the batch."""
    ratio = numerator / _one_if_zero(denominator)
    # The inner `where` keeps log's infinite derivative at 0 out of the gradient, where 0 * inf would be NaN.
    positive = ratio > 0
    log = jnp.where(positive, jnp.log(jnp.where(positive, ratio, 1)), MIN_LOG)
    rows = valid.sum().astype(ratio.dtype)
    return jnp.where(valid, -jnp.maximum(log, MIN_LOG), 0).sum() / _one_if_zero(rows)


@jax.custom_jvp
def _softplus(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + exp(z)). With the derivative of jax.nn.softplus, a backward pass would compute the logarithm again."""
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


_softplus.defjvps(lambda tangent, _, z: tangent * jax.nn.sigmoid(z))


def _one_if_zero(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)


def _check(prior: tuple[int, ...], labels: tuple[int, ...]) -> None:
    if len(labels) != 2 or prior != (*labels, labels[-1]):
        raise ValueError(f"the prior has shape {prior} and labels {labels}; they must be (batch, n, n) and (batch, n)")
