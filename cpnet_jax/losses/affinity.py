"""The Affinity Loss (the paper's section of that name): L_p = lambda_u L_u + lambda_g L_g.

It supervises the context prior P with the ideal affinity map A, a_ij = 1 if positions i and j share a class:

    L_u = mean_ij BCE(p_ij, a_ij)
    L_g = -mean_i (log precision_i + log recall_i + log specificity_i)

    precision_i   = sum_j a_ij p_ij / sum_j p_ij
    recall_i      = sum_j a_ij p_ij / sum_j a_ij
    specificity_i = sum_j (1 - a_ij)(1 - p_ij) / sum_j (1 - a_ij)

By default, as in the release, i = j is left out of the numerators of precision and recall, and of recall's denominator.
`exclude_diagonal=False` is the paper's formula.

`AffinityTargets.row_sums` computes the sums that depend on P, for any number of rows at a time;
`AffinityTargets.counts` computes those of A alone.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

# The release's binary cross entropy (torch's) clamps logarithms at this value.
MIN_LOG = -100.0
# The class of padding, which no label has.
PADDING = np.iinfo(np.int32).min


class AffinityLoss(NamedTuple):
    """The loss and its terms: scalars.

    `total` is the weighted sum; the terms are unweighted. `precision`, `recall` and `specificity` are the means over
    rows of -log of the quantity.
    """

    total: Float[Array, ""]
    unary: Float[Array, ""]
    precision: Float[Array, ""]
    recall: Float[Array, ""]
    specificity: Float[Array, ""]


class ReadableLoss(NamedTuple):
    """The Affinity Loss for people: what the training can still lower, and how many rows it can do nothing about.

    Attributes:
      loss: without what clamped rows add, a constant of 100 each; its gradient is that of the loss.
      clamped: share of the rows with a clamped precision, recall or specificity, in [0, 1].
    """

    loss: AffinityLoss
    clamped: Float[Array, ""]


def downsample_labels(
    labels: Integer[Array | np.ndarray, "b H W"], size: tuple[int, int]
) -> Integer[Array | np.ndarray, "b n"]:
    """Samples labels at the prior's resolution: the top-left pixel of each cell, row-major, n = h * w.

    Args:
      labels: class indices.
      size: (h, w) of the feature map.

    Raises:
      ValueError: if (h, w) does not divide (H, W).
    """
    b, height, width = labels.shape
    h, w = size
    if h < 1 or w < 1 or height % h or width % w:
        raise ValueError(
            f"labels of {height}x{width} cannot be sampled to {h}x{w}: h must divide H, and w must divide W"
        )
    return labels[:, :: height // h, :: width // w].reshape(b, h * w)


def ideal_affinity_map(labels: Integer[Array | np.ndarray, "b n"], ignore_label: int = 255) -> Float[Array, "b n n"]:
    """A = L L^T of the one-hot labels L: 1 if two positions share a class.

    Positions with `ignore_label` or a negative label are ignored: they form one more class, as in the release.
    """
    classes = _classes(labels, ignore_label)
    return (classes[:, :, None] == classes[:, None, :]).astype(jnp.float32)


class RowSums(NamedTuple):
    """Sums over the columns of each row: everything that the loss needs from the n x n pairs."""

    cross_entropy: Float[Array, "b r"]  # sum_j BCE(p, a)
    true_positive: Float[Array, "b r"]  # sum_j a p
    predicted: Float[Array, "b r"]  # sum_j p
    true_negative: Float[Array, "b r"]  # sum_j (1 - a)(1 - p)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AffinityTargets:
    """The ideal affinity map of labels, computed for a few rows at a time instead of stored.

    `models.CPNet` takes them to compute the loss's sums in the same pass over the prior as its contexts.

    Attributes:
      labels, exclude_diagonal, ignored, ignore_label, real: see `affinity_loss`.

    Raises:
      ValueError: on another value of `ignored`.
    """

    labels: Integer[Array, "b n"]
    exclude_diagonal: bool = field(default=True, metadata={"static": True})
    ignored: Literal["class", "mask"] = field(default="class", metadata={"static": True})
    ignore_label: int = field(default=255, metadata={"static": True})
    real: Bool[Array, "b n"] | None = None

    def __post_init__(self) -> None:
        if self.ignored not in ("class", "mask"):
            raise ValueError(f"ignored is {self.ignored!r}: it must be 'class' or 'mask'")

    @property
    def classes(self) -> Int[Array, "b n"]:
        """The labels, with `ignore_label` in place of negative ones, and PADDING where a position is not real."""
        classes = _classes(self.labels, self.ignore_label)
        return classes if self.real is None else jnp.where(self.real, classes, PADDING)

    @property
    def valid(self) -> Bool[Array, "b n"]:
        """The positions that are neither masked nor padding."""
        labelled = self.classes != self.ignore_label if self.ignored == "mask" else jnp.ones_like(self.labels, bool)
        return labelled if self.real is None else labelled & self.real

    def row_sums(self, logits: Float[Array, "b r n"], rows: Int[Array, " r"]) -> RowSums:
        """The sums over the columns of these rows of the logits Z, in the dtype of the logits."""
        classes, column = self.classes, self.valid[:, None, :]
        same = jnp.take(classes, rows, axis=1, mode="clip")[:, :, None] == classes[:, None, :]
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
            # sigmoid(-z) instead of 1 - p, which is exactly 0 in float32 from z = 17 on.
            true_negative=jnp.where(other, jax.nn.sigmoid(-logits), 0).sum(axis=2),
        )

    def counts(self) -> tuple[Int[Array, "b n"], Int[Array, "b n"]]:
        """(sum_j a, sum_j (1 - a)) of each valid row; arbitrary numbers for masked rows."""
        in_order = jnp.sort(self.classes, axis=1)
        first, after = (
            jax.vmap(partial(jnp.searchsorted, side=side, method="sort"))(in_order, self.classes)
            for side in ("left", "right")
        )
        same = after - first
        return same - self.exclude_diagonal, self.valid.sum(axis=1, keepdims=True) - same


def affinity_loss(
    prior: Float[Array | np.ndarray, "b n n"] | Any,
    labels: Integer[Array | np.ndarray, "b n"],
    *,
    unary_weight: float = 1.0,
    global_weight: float = 1.0,
    precision_weight: float = 1.0,
    recall_weight: float = 1.0,
    specificity_weight: float = 1.0,
    exclude_diagonal: bool = True,
    ignored: Literal["class", "mask"] = "class",
    ignore_label: int = 255,
    real: Bool[Array | np.ndarray, "b n"] | None = None,
) -> AffinityLoss:
    """L_p = unary_weight * L_u + global_weight * L_g, with finite values and gradients for all logits and labels.

    Everything is computed from logits, so a saturated prior keeps its gradient. Works under jit, grad, jvp,
    linearize, vmap, pmap, shard_map and checkpoint.

    Args:
      prior: logits Z of the prior, P = sigmoid(Z), row i = position i; or an object with their `shape` and a method
        `row_sums(targets)`, such as `models.PriorFactors`, with which no n x n array is stored. If the network was
        given `AffinityTargets` with these options, their sums are used, so both must have the same labels.
      labels: class of each position (see `downsample_labels`). Any number from 0 on is a class; negative ones count as
        `ignore_label`.
      unary_weight, global_weight: lambda_u and lambda_g (the paper: 1 and 1).
      precision_weight, recall_weight, specificity_weight: of the three terms in L_g (the paper: 1 each). A term whose
        weight is the Python number 0 is left out of the total and its gradient.
      exclude_diagonal: whether to leave i = j out of recall's numerator and denominator and of precision's numerator,
        but not of precision's denominator, as in the release. False is the paper's formula.
      ignored: how positions with `ignore_label` count. "class": as one more class (the release). "mask": their rows and
        columns leave every sum and mean; an image without any label contributes nothing.
      ignore_label: the label of ignored positions.
      real: False where a position only pads its image. Its row and column leave every sum and mean, whatever `ignored`
        is. None: all are real.

    Returns:
      The loss and its terms. As in the release, a denominator of zero counts as 1 and a logarithm is at least -100: a
      row whose precision, recall or specificity is exactly zero adds 100 and has no gradient. All rows of an image of
      one class do, by their specificity: to log a curve without such jumps, see `affinity_loss_to_read`.

    Raises:
      ValueError: if shapes do not fit, or on another value of `ignored`.
    """
    loss, _ = affinity_loss_to_read(
        prior,
        labels,
        unary_weight=unary_weight,
        global_weight=global_weight,
        precision_weight=precision_weight,
        recall_weight=recall_weight,
        specificity_weight=specificity_weight,
        exclude_diagonal=exclude_diagonal,
        ignored=ignored,
        ignore_label=ignore_label,
        real=real,
    )
    return loss


def affinity_loss_to_read(
    prior: Float[Array | np.ndarray, "b n n"] | Any,
    labels: Integer[Array | np.ndarray, "b n"],
    *,
    unary_weight: float = 1.0,
    global_weight: float = 1.0,
    precision_weight: float = 1.0,
    recall_weight: float = 1.0,
    specificity_weight: float = 1.0,
    exclude_diagonal: bool = True,
    ignored: Literal["class", "mask"] = "class",
    ignore_label: int = 255,
    real: Bool[Array | np.ndarray, "b n"] | None = None,
) -> tuple[AffinityLoss, ReadableLoss]:
    """`affinity_loss`, and the same for people: its arguments and errors, and one pass over the prior."""
    positions = None if real is None else jnp.asarray(real)
    targets = AffinityTargets(jnp.asarray(labels), exclude_diagonal, ignored, ignore_label, positions)
    rows: Any = prior if hasattr(prior, "row_sums") else _Logits(prior)
    _check(rows.shape, labels.shape)
    unary, logs, clamped = _terms(rows.row_sums(targets), targets)
    weights = (unary_weight, *(global_weight * w for w in (precision_weight, recall_weight, specificity_weight)))

    def weighted(*terms: Float[Array, ""]) -> AffinityLoss:
        return AffinityLoss(weighted_sum(*zip(weights, terms, strict=True)), *terms)

    share = partial(_share, valid=targets.valid, dtype=unary.dtype)
    with_clamped = (log - MIN_LOG * share(rows) for log, rows in zip(logs, clamped, strict=True))
    to_read = ReadableLoss(weighted(unary, *logs), share(clamped[0] | clamped[1] | clamped[2]))
    return weighted(unary, *with_clamped), to_read


def _terms(
    sums: RowSums, targets: AffinityTargets
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], ...], tuple[Bool[Array, "b n"], ...]]:
    """(L_u, the terms of L_g without clamped rows, which rows each of them leaves out).

    The terms of L_g are those of precision, recall and specificity.
    """
    valid = targets.valid
    positive, negative = (count.astype(sums.predicted.dtype) for count in targets.counts())

    pairs = (valid.sum(axis=1).astype(sums.predicted.dtype) ** 2).sum()
    unary = jnp.where(valid, sums.cross_entropy, 0).sum() / _one_if_zero(pairs)
    precision = _mean_negative_log(sums.true_positive, sums.predicted, valid)
    recall = _mean_negative_log(sums.true_positive, positive, valid)
    specificity = _mean_negative_log(sums.true_negative, negative, valid)
    logs, clamped = zip(precision, recall, specificity, strict=True)
    return unary, logs, clamped


def weighted_sum(*terms: tuple[float, Float[Array, ""]]) -> Float[Array, ""]:
    """Sum of weight * term, without the terms whose weight is the number 0.

    Such a term would cost a backward pass, and 0 * inf would be NaN.
    """
    zero = jnp.zeros_like(terms[0][1])
    return sum((weight * term for weight, term in terms if not (isinstance(weight, int | float) and weight == 0)), zero)


class _Logits:
    """A prior given as its logits, with the interface of `models.PriorFactors`."""

    def __init__(self, logits: Float[Array | np.ndarray, "b n n"]) -> None:
        logits = jnp.asarray(logits)
        self._logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        self.shape = logits.shape

    def row_sums(self, targets: AffinityTargets) -> RowSums:
        return targets.row_sums(self._logits, jnp.arange(self.shape[1]))


def _mean_negative_log(
    numerator: Float[Array, "b n"], denominator: Float[Array, "b n"], valid: Bool[Array, "b n"]
) -> tuple[Float[Array, ""], Bool[Array, "b n"]]:
    """(-log(numerator / denominator) averaged over the valid rows, where a clamped row counts as 0; clamped rows)."""
    ratio = numerator / _one_if_zero(denominator)
    # The inner `where` keeps log's infinite derivative at 0 out of the gradient: 0 * inf would be NaN.
    positive = ~(ratio <= 0)  # NaN too, so that it shows in the loss
    log = jnp.where(positive, jnp.log(jnp.where(positive, ratio, 1)), MIN_LOG)
    clamped = valid & (log <= MIN_LOG)
    rows = valid.sum().astype(ratio.dtype)
    return jnp.where(valid & ~clamped, -log, 0).sum() / _one_if_zero(rows), clamped


def _share(rows: Bool[Array, "b n"], valid: Bool[Array, "b n"], dtype: Any) -> Float[Array, ""]:
    """The share of the valid rows that are among the rows; 0 if none is valid."""
    return rows.sum().astype(dtype) / _one_if_zero(valid.sum().astype(dtype))


@jax.custom_jvp
def _softplus(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + exp(z)); unlike jax.nn.softplus, its backward pass does not recompute the logarithm."""
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


_softplus.defjvps(lambda tangent, _, z: tangent * jax.nn.sigmoid(z))


def _classes(labels: Integer[Array | np.ndarray, "b n"], ignore_label: int) -> Int[Array, "b n"]:
    # Not uint8, in which comparisons would take an ignore label of -1 for 255.
    labels = jnp.asarray(labels, jnp.int32)
    return jnp.where(labels < 0, ignore_label, labels)


def _one_if_zero(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)


def _check(prior: tuple[int, ...], labels: tuple[int, ...]) -> None:
    if len(labels) != 2 or prior != (*labels, labels[-1]):
        raise ValueError(
            f"prior has shape {prior} and labels {labels}: they must be (batch, n, n) and (batch, n); give one image, "
            "as inside jax.vmap, a first axis of 1"
        )
