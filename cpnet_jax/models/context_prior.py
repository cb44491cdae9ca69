"""The Context Prior Layer of the paper: a learned affinity between positions splits the context in two.

    P = sigmoid(Z)          Z = BatchNorm(1x1 convolution of X~)        `Prior`
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
from jaxtyping import Array, Float, Int, PyTree

from cpnet_jax.models.aggregation import Aggregation
from cpnet_jax.models.forms import BLOCK_ROWS
from cpnet_jax.models.forms.folded_norm import fold
from cpnet_jax.models.forms.row_blocks import RowFunction, map_rows
from cpnet_jax.models.layers import ConvBN, he_fan_out


@runtime_checkable
class RowTargets(Protocol):
    """A loss on rows of the prior, a pytree of arrays (b, ...); see `losses.AffinityTargets`."""

    def row_sums(self, logits: Float[Array, "b r n"], rows: Int[Array, " r"]) -> PyTree:
        """Sums over the columns of these rows of Z: arrays (b, r)."""


@flax.struct.dataclass
class PriorFactors:
    """The context prior P = sigmoid(Z), stored as the factors of Z = features @ kernel + bias.

    N is the number of positions of the feature map, row-major. Row i of P belongs to position i; column j says how
    likely position j has the same class. The layer's BatchNorm is folded into `kernel` and `bias`. Everything is
    computed in float32, or in float64 if the features are float64.

    Attributes:
      known: (targets, sums) if the sums of `row_sums` were already computed in another pass over the rows.
      block_rows: rows of P in a block; None computes all rows of all images at once, with N x N arrays.
    """

    features: Float[Array, "b n c"]
    kernel: Float[Array, "c n"]
    bias: Float[Array, " n"]
    known: tuple[RowTargets, PyTree] | None = None
    block_rows: int | None = flax.struct.field(pytree_node=False, default=BLOCK_ROWS)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of P and of `logits()`: (b, n, n)."""
        return (*self.features.shape[:-1], self.kernel.shape[1])

    def logits(self) -> Float[Array, "b rows n"]:
        """Z, at least float32 whatever dtype the features have."""
        x, kernel, bias = map(self._cast, (self.features, self.kernel, self.bias))
        return jnp.einsum("bnc,cm->bnm", x, kernel) + bias

    def contexts(
        self, values: Float[Array, "b n c"], *, divide_by_n: bool = True
    ) -> tuple[Float[Array, "b n c"], Float[Array, "b n c"]]:
        """Intra-class context P V / N and inter-class context (1 - P) V / N, in the dtype of the values V.

        The authors' release divides by N. The paper does not, and neither does `divide_by_n=False`.
        """
        return self._map_rows(_contexts, _Values.of(values, divide_by_n))

    def row_sums(self, targets: RowTargets) -> PyTree:
        """Sums of the targets over each row: arrays (b, n). Returns the `known` ones if they have such targets."""
        if self.known and jax.tree.structure(self.known[0]) == jax.tree.structure(targets):
            return self.known[1]
        return self._map_rows(_row_sums, targets=targets)

    def contexts_and_row_sums(
        self, values: Float[Array, "b n c"], targets: RowTargets, *, divide_by_n: bool = True
    ) -> tuple[tuple[Float[Array, "b n c"], Float[Array, "b n c"]], PyTree]:
        """`contexts` and `row_sums` in one pass over the rows, with seven matrix products instead of eleven."""
        return self._map_rows(_contexts_and_row_sums, _Values.of(values, divide_by_n), targets)

    def _map_rows(
        self, function: RowFunction, values: "_Values | None" = None, targets: RowTargets | None = None
    ) -> PyTree:
        if self.block_rows is None:
            return function(self.logits(), jnp.arange(self.shape[1]), values, targets)
        factors = self.features, self._cast(self.kernel), self._cast(self.bias)
        return map_rows(function, *factors, values, targets, block_rows=self.block_rows)

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
    """

    each: Float[Array, "b n c"]
    total: Float[Array, "b 1 c"]
    divisor: int = flax.struct.field(pytree_node=False)
    dtype: Any = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, values: Float[Array, "b n c"], divide_by_n: bool) -> "_Values":
        total = values.sum(axis=1, keepdims=True, dtype=jnp.promote_types(values.dtype, jnp.float32))
        return cls(values, total, values.shape[1] if divide_by_n else 1, values.dtype)


def _contexts(
    logits: Float[Array, "b r n"], rows: Int[Array, " r"], values: _Values, targets: RowTargets | None
) -> tuple[Float[Array, "b r c"], Float[Array, "b r c"]]:
    """(P V / N, (1 - P) V / N); the second is the sum of V minus the first, which saves a matrix product."""
    intra = jax.nn.sigmoid(logits) @ values.each.astype(logits.dtype)
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


class Prior(nn.Module):
    """The 1x1 convolution C -> N and its BatchNorm, returned as `PriorFactors` with the BatchNorm folded in."""

    positions: int
    block_rows: int | None = BLOCK_ROWS

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool) -> PriorFactors:
        kernel = self.param("kernel", he_fan_out, (x.shape[-1], self.positions))
        kernel, bias = fold(self, nn.initializers.ones, x, kernel, train=train)
        return PriorFactors(x, kernel, bias, block_rows=self.block_rows)


@dataclass(frozen=True)
class PriorOptions:
    """Choices of the Context Prior Layer, for ablations; the defaults are the release's.

    Attributes:
      aggregation: False keeps only the 3x3 reduction, BatchNorm and ReLU of the Aggregation Module.
      aggregation_kernel: k of the Aggregation Module (the paper: 11).
      contexts: which contexts the layer returns: "both", "intra" or "inter"; the layers of the other do not exist.
      divide_by_n: whether the contexts are divided by N, as in the release; False is the paper's formula.

    Raises:
      ValueError: if `contexts` is something else.
    """

    aggregation: bool = True
    aggregation_kernel: int = 11
    contexts: Literal["both", "intra", "inter"] = "both"
    divide_by_n: bool = True

    def __post_init__(self) -> None:
        if self.contexts not in ("both", "intra", "inter"):
            raise ValueError(f"contexts is {self.contexts!r}: it must be 'both', 'intra' or 'inter'")


class ContextPrior(nn.Module):
    """Aggregation, context prior and the two contexts, each through a 1x1 convolution, BatchNorm and ReLU.

    Attributes:
      prior_size: (h, w) of the feature map; N = h * w is fixed, because the prior has N output channels.
      channels: of the aggregated features and of each context (the paper: 512).
      options: what the layer is made of.
      block_rows: rows of the prior that are computed at a time, see `PriorFactors`.
      dtype: of the activations; the prior itself is computed in float32.

    Raises:
      ValueError: if the feature map is not of `prior_size`.
    """

    prior_size: tuple[int, int]
    channels: int = 512
    options: PriorOptions = PriorOptions()
    block_rows: int | None = BLOCK_ROWS
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w cin"], *, train: bool, targets: RowTargets | None = None
    ) -> tuple[Float[Array, "b h w channels"] | None, Float[Array, "b h w channels"] | None, PriorFactors]:
        """Returns (intra-class context, inter-class context, prior); None for a context that the options leave out.

        With the `targets` of the affinity loss, their sums are computed in the same pass over the rows and returned
        with the prior.
        """
        b, h, w, _ = x.shape
        if (h, w) != tuple(self.prior_size):
            raise ValueError(
                f"the feature map is {h}x{w} but the context prior was built for "
                f"{self.prior_size[0]}x{self.prior_size[1]}: the prior has one channel a position, so images must "
                "have the size of the training crop (larger ones go through sliding windows)"
            )
        features = self._aggregated(x, train).reshape(b, h * w, self.channels)
        prior = Prior(h * w, self.block_rows, name="prior")(features, train=train)
        if targets is None:
            contexts = prior.contexts(features, divide_by_n=self.options.divide_by_n)
        else:
            contexts, sums = prior.contexts_and_row_sums(features, targets, divide_by_n=self.options.divide_by_n)
            prior = replace(prior, known=(targets, sums))
        intra, inter = (
            ConvBN(self.channels, (1, 1), dtype=self.dtype, name=name)(y.reshape(b, h, w, -1), train=train)
            if self.options.contexts in ("both", name)
            else None
            for name, y in zip(("intra", "inter"), contexts, strict=True)
        )
        return intra, inter, prior

    def _aggregated(self, x: Array, train: bool) -> Float[Array, "b h w channels"]:
        if not self.options.aggregation:
            return ConvBN(self.channels, (3, 3), dtype=self.dtype, name="reduce")(x, train=train)
        aggregation = Aggregation(self.channels, self.options.aggregation_kernel, self.dtype, name="aggregation")
        return aggregation(x, train=train)
