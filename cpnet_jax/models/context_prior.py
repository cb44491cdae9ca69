"""The Context Prior Layer of the paper: a learned affinity between positions splits the context in two.

    P = sigmoid(Z)          Z = BatchNorm(1x1 convolution of X~)        `PositionPrior`, the paper's
                            Z = s E E^T + b, E embeddings of X~         `PairPrior`, ours
    Y = P X~ / N            intra-class context                         `PriorFactors.contexts`
    Y- = (1 - P) X~ / N     inter-class context                         `PriorFactors.contexts`

`/ N` is the default (release; the paper does not divide by N): `divide_by_n=False` leaves it out.

X~ are the features of the Aggregation Module at N positions. P is N x N, so it is never stored as a whole: it is kept
as the factors of Z and computed a block of rows at a time (see `forms.row_blocks`).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from cpnet_jax.models.aggregation import Aggregation
from cpnet_jax.models.forms import BLOCK_ROWS
from cpnet_jax.models.forms.folded_norm import fold
from cpnet_jax.models.forms.products import product
from cpnet_jax.models.forms.row_blocks import RowFunction, map_rows
from cpnet_jax.models.layers import ConvBN, he_fan_out

# Keeps the gradient of an embedding of length 0 finite.
SMALLEST_SQUARE = 1e-12


@runtime_checkable
class RowTargets(Protocol):
    """A loss on rows of the prior, a pytree of arrays (b, ...); see `losses.AffinityTargets`."""

    def row_sums(self, logits: Float[Array, "b r n"], rows: Int[Array, " r"]) -> PyTree:
        """Sums over the columns of these rows of Z: arrays (b, r)."""


@flax.struct.dataclass
class PriorFactors:
    """The context prior P = sigmoid(Z), stored as the factors of Z = features @ kernel + bias.

    N is the number of positions of the feature map, row-major. Row i of P belongs to position i; column j says how
    likely position j has the same class. Everything is computed in float32, or in float64 if the features are float64.

    Attributes:
      features: of each position, X~ or its embeddings.
      kernel, bias: of each column: (c, n) and (n,), shared by all images, or (b, c, n) and (b, n), each image's own.
      known: (targets, sums) if the sums of `row_sums` were already computed in another pass over the rows.
      block_rows: rows of P in a block; None computes all rows of all images at once, with N x N arrays.
      bfloat16: see `PriorOptions`.
    """

    features: Float[Array, "b n c"]
    kernel: Float[Array, "*b c n"]
    bias: Float[Array, "*b n"]
    known: tuple[RowTargets, PyTree] | None = None
    block_rows: int | None = flax.struct.field(pytree_node=False, default=BLOCK_ROWS)
    bfloat16: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of P and of `logits()`: (b, n, n)."""
        return (*self.features.shape[:-1], self.kernel.shape[-1])

    def parts(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """(what all images share, what each image has), so that this is `PriorFactors(*each, *shared, ...)`."""
        factors = self.kernel, self.bias
        return (factors, (self.features,)) if self.kernel.ndim == 2 else ((), (self.features, *factors))

    def logits(self) -> Float[Array, "b rows n"]:
        """Z, at least float32 whatever dtype the features have."""
        x, kernel, bias = map(self._cast, (self.features, self.kernel, self.bias))
        rows = x if kernel.ndim == 3 else x.reshape(-1, x.shape[-1])  # a shared kernel is one product for all images
        return product(rows, kernel, bfloat16=self.bfloat16).reshape(self.shape) + bias[..., None, :]

    def contexts(
        self, values: Float[Array, "b n c"], *, divide_by_n: bool = True
    ) -> tuple[Float[Array, "b n c"], Float[Array, "b n c"]]:
        """Intra-class context P V / N and inter-class context (1 - P) V / N, in the dtype of the values V.

        The authors' release divides by N. The paper does not, and neither does `divide_by_n=False`.
        """
        return self._map_rows(_contexts, _Values.of(values, divide_by_n, self.bfloat16))

    def row_sums(self, targets: RowTargets) -> PyTree:
        """Sums of the targets over each row: arrays (b, n). Returns the `known` ones if they have such targets."""
        if self.known and jax.tree.structure(self.known[0]) == jax.tree.structure(targets):
            return self.known[1]
        return self._map_rows(_row_sums, targets=targets)

    def contexts_and_row_sums(
        self, values: Float[Array, "b n c"], targets: RowTargets, *, divide_by_n: bool = True
    ) -> tuple[tuple[Float[Array, "b n c"], Float[Array, "b n c"]], PyTree]:
        """`contexts` and `row_sums` in one pass over the rows, which computes Z once."""
        return self._map_rows(_contexts_and_row_sums, _Values.of(values, divide_by_n, self.bfloat16), targets)

    def _map_rows(
        self, function: RowFunction, values: "_Values | None" = None, targets: RowTargets | None = None
    ) -> PyTree:
        if self.block_rows is None:
            return function(self.logits(), jnp.arange(self.shape[1]), values, targets)
        factors = self.features, self._cast(self.kernel), self._cast(self.bias)
        options = {"block_rows": self.block_rows, "bfloat16": self.bfloat16}
        return map_rows(function, *factors, values, targets, **options)

    def _cast(self, x: Array) -> Array:
        return x.astype(jnp.promote_types(self.features.dtype, jnp.float32))


# --- functions of rows ------------------------------------------------------------------------------------------------


@flax.struct.dataclass
class _Values:
    """The values V that contexts are made from.

    Attributes:
      each: V.
      total: sum of V over all positions.
      divisor: of the contexts: N, or 1.
      dtype: of the contexts.
      bfloat16: whether to round the operands of products with V.
    """

    each: Float[Array, "b n c"]
    total: Float[Array, "b 1 c"]
    divisor: int = flax.struct.field(pytree_node=False)
    dtype: Any = flax.struct.field(pytree_node=False)
    bfloat16: bool = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, values: Float[Array, "b n c"], divide_by_n: bool, bfloat16: bool) -> "_Values":
        total = values.sum(axis=1, keepdims=True, dtype=jnp.promote_types(values.dtype, jnp.float32))
        return cls(values, total, values.shape[1] if divide_by_n else 1, values.dtype, bfloat16)


def _contexts(
    logits: Float[Array, "b r n"], rows: Int[Array, " r"], values: _Values, targets: RowTargets | None
) -> tuple[Float[Array, "b r c"], Float[Array, "b r c"]]:
    """(P V / N, (1 - P) V / N); the second is the sum of V minus the first, which saves a matrix product."""
    intra = product(jax.nn.sigmoid(logits), values.each.astype(logits.dtype), bfloat16=values.bfloat16)
    intra, inter = ((y / values.divisor).astype(values.dtype) for y in (intra, values.total - intra))
    return intra, inter


def _row_sums(
    logits: Float[Array, "b r n"], rows: Int[Array, " r"], values: _Values | None, targets: RowTargets
) -> PyTree:
    return targets.row_sums(logits, rows)


def _contexts_and_row_sums(
    logits: Float[Array, "b r n"], rows: Int[Array, " r"], values: _Values, targets: RowTargets
) -> tuple[tuple[Float[Array, "b r c"], Float[Array, "b r c"]], PyTree]:
    return _contexts(logits, rows, values, targets), _row_sums(logits, rows, values, targets)


# --- modules ----------------------------------------------------------------------------------------------------------


class PositionPrior(nn.Module):
    """The paper's prior: Z = BatchNorm(1x1 convolution C -> N of X~), with the BatchNorm folded into kernel and bias.

    Column j is a filter that the training learns for position j, so the number of positions is fixed.
    """

    positions: int
    block_rows: int | None = BLOCK_ROWS
    bfloat16: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool) -> PriorFactors:
        kernel = self.param("kernel", he_fan_out, (x.shape[-1], self.positions))
        kernel, bias = fold(self, nn.initializers.ones, x, kernel, train=train)
        return PriorFactors(x, kernel, bias, block_rows=self.block_rows, bfloat16=self.bfloat16)


class PairPrior(nn.Module):
    """A prior that compares positions, for any number of them: Z_ij = s e_i . e_j + b. Not in the paper.

    The embeddings e_i are a 1x1 convolution of X~, scaled to length 1, so that e_i . e_j is the cosine of their angle;
    s and b are learned numbers. P is symmetric, as the ideal affinity map is. docs/lab_notes/context_prior.md says what
    else was tried.

    Attributes:
      channels: of the embeddings.
      block_rows, bfloat16: see `PriorFactors`.
    """

    channels: int = 64
    block_rows: int | None = BLOCK_ROWS
    bfloat16: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool) -> PriorFactors:
        full = jnp.promote_types(x.dtype, jnp.float32)
        kernel = self.param("kernel", he_fan_out, (x.shape[-1], self.channels)).astype(full)
        # At the start, P is 0.95 for equal embeddings and 0.12 for perpendicular ones.
        scale = self.param("scale", nn.initializers.constant(5.0), ()).astype(full)
        bias = self.param("bias", nn.initializers.constant(-2.0), ()).astype(full)
        e = x.astype(full) @ kernel
        e *= jax.lax.rsqrt(jnp.square(e).sum(axis=-1, keepdims=True) + SMALLEST_SQUARE)
        options = {"block_rows": self.block_rows, "bfloat16": self.bfloat16}
        return PriorFactors(scale * e, e.mT, jnp.broadcast_to(bias, x.shape[:2]), **options)


@dataclass(frozen=True)
class PriorOptions:
    """Choices of the Context Prior Layer, for ablations; the defaults are the release's.

    Attributes:
      kind: "positions" is the paper's prior, see `PositionPrior`; "pairs" works at any image size, see `PairPrior`.
      aggregation: False keeps only the 3x3 reduction, BatchNorm and ReLU of the Aggregation Module.
      aggregation_kernel: k of the Aggregation Module (the paper: 11).
      contexts: which contexts the layer returns: "both", "intra" or "inter"; the layers of the other do not exist.
      divide_by_n: whether the contexts are divided by N, as in the release; False is the paper's formula.
      bfloat16: round the operands of the products with N x N arrays to bfloat16; sums stay float32. The release
        multiplies in float32. TPUs round so by default, and GPUs to tf32, with three more bits.

    Raises:
      ValueError: if `kind` or `contexts` is something else.
    """

    kind: Literal["positions", "pairs"] = "positions"
    aggregation: bool = True
    aggregation_kernel: int = 11
    contexts: Literal["both", "intra", "inter"] = "both"
    divide_by_n: bool = True
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("positions", "pairs"):
            raise ValueError(f"kind is {self.kind!r}: it must be 'positions' or 'pairs'")
        if self.contexts not in ("both", "intra", "inter"):
            raise ValueError(f"contexts is {self.contexts!r}: it must be 'both', 'intra' or 'inter'")


class ContextPrior(nn.Module):
    """Aggregation, context prior and the two contexts, each through a 1x1 convolution, BatchNorm and ReLU.

    Attributes:
      prior_size: (h, w) of the feature map, for a prior of positions: N = h * w is fixed, because that prior has N
        output channels. Unused for a prior of pairs.
      channels: of the aggregated features and of each context (the paper: 512).
      options: what the layer is made of.
      block_rows: rows of the prior that are computed at a time, see `PriorFactors`.
      dtype: of the activations; the prior itself is computed in float32.

    Raises:
      ValueError: if a prior of positions gets a feature map of another size than `prior_size`.
    """

    prior_size: tuple[int, int] | None = None
    channels: int = 512
    options: PriorOptions = PriorOptions()
    block_rows: int | None = BLOCK_ROWS
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w cin"],
        *,
        train: bool,
        targets: RowTargets | None = None,
        real: Bool[Array, "b h w"] | None = None,
    ) -> tuple[Float[Array, "b h w channels"] | None, Float[Array, "b h w channels"] | None, PriorFactors]:
        """Returns (intra-class context, inter-class context, prior); None for a context that the options leave out.

        Args:
          targets: of the affinity loss. Their sums are computed in the same pass over the rows and returned with the
            prior.
          real: False where a position is padding, which both contexts then leave out; None: all are real.
        """
        b, h, w, _ = x.shape
        features = self._aggregated(x, train).reshape(b, h * w, self.channels)
        prior = self._prior(h, w)(features, train=train)
        if real is not None:
            features = jnp.where(real.reshape(b, h * w, 1), features, 0)
        if targets is None:
            contexts = prior.contexts(features, divide_by_n=self.options.divide_by_n)
        else:
            contexts, sums = prior.contexts_and_row_sums(features, targets, divide_by_n=self.options.divide_by_n)
            prior = replace(prior, known=(targets, sums))
        if real is not None and self.options.divide_by_n:
            full = jnp.promote_types(features.dtype, jnp.float32)
            share = real.mean(axis=(1, 2), dtype=full).reshape(b, 1, 1)
            contexts = jax.tree.map(lambda y: (y / share).astype(y.dtype), contexts)
        intra, inter = (
            ConvBN(self.channels, (1, 1), dtype=self.dtype, name=name)(y.reshape(b, h, w, -1), train=train)
            if self.options.contexts in ("both", name)
            else None
            for name, y in zip(("intra", "inter"), contexts, strict=True)
        )
        return intra, inter, prior

    def _prior(self, h: int, w: int) -> nn.Module:
        if self.options.kind == "pairs":
            return PairPrior(block_rows=self.block_rows, bfloat16=self.options.bfloat16, name="pair_prior")
        if self.prior_size is None or (h, w) != tuple(self.prior_size):
            built_for = "no size" if self.prior_size is None else "{}x{}".format(*self.prior_size)
            raise ValueError(
                f"the feature map is {h}x{w} but the context prior was built for {built_for}: a prior of positions has "
                "one channel for each, so images must have the size of the training crop (larger ones go through "
                "sliding windows)"
            )
        return PositionPrior(h * w, self.block_rows, self.options.bfloat16, name="prior")

    def _aggregated(self, x: Array, train: bool) -> Float[Array, "b h w channels"]:
        if not self.options.aggregation:
            return ConvBN(self.channels, (3, 3), dtype=self.dtype, name="reduce")(x, train=train)
        aggregation = Aggregation(self.channels, self.options.aggregation_kernel, self.dtype, name="aggregation")
        return aggregation(x, train=train)
