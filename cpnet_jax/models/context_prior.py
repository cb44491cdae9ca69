"""The Context Prior Layer of the paper: a learned affinity between positions splits context in two."""

from typing import Any, Literal, Protocol

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from cpnet_jax.models.aggregation import Aggregation
from cpnet_jax.models.forms.folded_norm import fold
from cpnet_jax.models.forms.row_blocks import RowFunction, map_rows
from cpnet_jax.models.layers import ConvBN, he_fan_out

# The fewest of which CPUs multiply matrices at full speed.
DEFAULT_BLOCK_ROWS = 512


def tpu_block_rows(n: int) -> int:
    """The rows of an image of n positions that are computed fastest on TPUs; see docs/performance.md. All of them where
    their logits fit a chip's vector memory, and would not have to go through the main memory."""
    return n if n <= 4096 else 1024


class RowTargets(Protocol):
    """What rows of the prior are compared with, a pytree of arrays (b, ...); see `losses.AffinityTargets`."""

    def row_sums(self, logits: Float[Array, "b r n"], rows: Int[Array, " r"]) -> PyTree:
        """Sums over the columns of each of these rows of Z: arrays (b, r)."""


@flax.struct.dataclass
class PriorFactors:
    """The context prior P = sigmoid(features @ kernel + bias), kept as its factors.

    N is the number of positions of the feature map, row-major. Row i of P belongs to position i; column j says how
    much position j shares its class. The layer's BatchNorm is folded into `kernel` and `bias`, so the factors are all
    that the contexts and the affinity loss need. Both work through the rows of P a block at a time (see
    `forms.row_blocks`) in float32, or in float64 where the features are: no N x N array is ever stored.

    Attributes:
      block_rows: rows of P in a block; None: all at once, with N x N arrays, as the formulas have it.
      known: (targets, sums) of `row_sums` that are at hand from another pass over the rows.
    """

    features: Float[Array, "b n c"]
    kernel: Float[Array, "c n"]
    bias: Float[Array, " n"]
    known: tuple[RowTargets, PyTree] | None = None
    block_rows: int | None = flax.struct.field(pytree_node=False, default=DEFAULT_BLOCK_ROWS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of P and of `logits()`."""
        return (*self.features.shape[:2], self.kernel.shape[1])

    def logits(self) -> Float[Array, "b n n"]:
        """Z with P = sigmoid(Z), at least float32 whatever the features are."""
        x, kernel, bias = map(self._cast, (self.features, self.kernel, self.bias))
        return jnp.einsum("bnc,cm->bnm", x, kernel) + bias

    def contexts(
        self, values: Float[Array, "b n c"], *, divide_by_n: bool = True
    ) -> tuple[Float[Array, "b n c"], Float[Array, "b n c"]]:
        """Intra-class context P V / N and inter-class context (1 - P) V / N (Y and Y-bar of the paper).

        The division by N is the authors' release's; the paper, and `divide_by_n=False`, leaves it out. Returned in the
        dtype of `values`.
        """
        return self._of_rows(_contexts, _Values.of(values, divide_by_n))

    def row_sums(self, targets: RowTargets) -> PyTree:
        """What the targets sum up over each row: arrays (b, n). From the `known` where that has such targets."""
        if self.known and jax.tree.structure(self.known[0]) == jax.tree.structure(targets):
            return self.known[1]
        return self._of_rows(_row_sums, targets=targets)

    def contexts_and_row_sums(
        self, values: Float[Array, "b n c"], targets: RowTargets, *, divide_by_n: bool = True
    ) -> tuple[tuple[Float[Array, "b n c"], Float[Array, "b n c"]], PyTree]:
        """`contexts` and `row_sums` in one pass over the rows, of seven matrix products instead of eleven."""
        return self._of_rows(_contexts_and_row_sums, _Values.of(values, divide_by_n), targets)

    def _of_rows(
        self, function: RowFunction, values: "_Values | None" = None, targets: RowTargets | None = None
    ) -> PyTree:
        if self.block_rows is None:
            return function(self.logits(), jnp.arange(self.shape[1]), values, targets)
        factors = self.features, self._cast(self.kernel), self._cast(self.bias)
        return map_rows(function, *factors, values, targets, block_rows=self.block_rows)

    def _cast(self, x: Array) -> Array:
        return x.astype(jnp.promote_types(self.features.dtype, jnp.float32))


@flax.struct.dataclass
class _Values:
    """V, of which the contexts are made.

    Attributes:
      each: V in its own dtype.
      total: its sum over all positions.
      n: what the contexts are divided by.
      dtype: of the contexts.
    """

    each: Float[Array, "b n c"]
    total: Float[Array, "b 1 c"]
    n: int = flax.struct.field(pytree_node=False)
    dtype: Any = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, values: Float[Array, "b n c"], divide_by_n: bool) -> "_Values":
        total = values.sum(axis=1, keepdims=True, dtype=jnp.promote_types(values.dtype, jnp.float32))
        return cls(values, total, values.shape[1] if divide_by_n else 1, values.dtype)


def _contexts(logits: Float[Array, "b r n"], rows: Any, values: _Values, targets: Any) -> tuple[Array, Array]:
    """(P V / N, (1 - P) V / N), the second without a product of its own."""
    gathered = jax.nn.sigmoid(logits) @ values.each.astype(logits.dtype)
    return tuple((y / values.n).astype(values.dtype) for y in (gathered, values.total - gathered))


def _row_sums(logits: Float[Array, "b r n"], rows: Int[Array, " r"], values: Any, targets: RowTargets) -> PyTree:
    return targets.row_sums(logits, rows)


def _contexts_and_row_sums(
    logits: Float[Array, "b r n"], rows: Int[Array, " r"], values: _Values, targets: RowTargets
) -> tuple[tuple[Array, Array], PyTree]:
    return _contexts(logits, rows, values, targets), _row_sums(logits, rows, values, targets)


class Prior(nn.Module):
    """The 1x1 convolution C -> N and its BatchNorm, returned as `PriorFactors` with the norm folded in."""

    positions: int
    block_rows: int | None = DEFAULT_BLOCK_ROWS

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool) -> PriorFactors:
        kernel = self.param("kernel", he_fan_out, (x.shape[-1], self.positions))
        kernel, bias = fold(self, nn.initializers.ones, x, kernel, train=train)
        return PriorFactors(x, kernel, bias, block_rows=self.block_rows)


class ContextPrior(nn.Module):
    """Aggregation, context prior and the two contexts, each through a 1x1 convolution, BN and ReLU.

    Attributes:
      prior_size: (h, w) of the feature map; N = h * w is fixed, because the prior has N output channels.
      channels: of the aggregated features and of each context (the paper: 512).
      aggregation_kernel: k of the Aggregation Module (the paper: 11).
      dtype: of the activations; the prior itself is computed in float32.
      block_rows: rows of the prior that are computed at a time, see `PriorFactors`.
      aggregation: False leaves of the Aggregation Module only its 3x3 reduction, BN and ReLU.
      contexts: which of them to return: "both", "intra" or "inter"; the layers of the other do not exist.
      divide_by_n: False leaves out the contexts' division by N, as the paper does and the release does not.

    Raises:
      ValueError: where the feature map is not of `prior_size`, and on other `contexts`.
    """

    prior_size: tuple[int, int]
    channels: int = 512
    aggregation_kernel: int = 11
    dtype: Any = None
    block_rows: int | None = DEFAULT_BLOCK_ROWS
    aggregation: bool = True
    contexts: Literal["both", "intra", "inter"] = "both"
    divide_by_n: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w cin"], *, train: bool, targets: RowTargets | None = None
    ) -> tuple[Float[Array, "b h w channels"] | None, Float[Array, "b h w channels"] | None, PriorFactors]:
        """Returns (intra-class context, inter-class context, prior); None for a context that `contexts` leaves out.

        Given the `targets` of the affinity loss, the prior brings their sums along, from one pass over its rows.
        """
        b, h, w, _ = x.shape
        if (h, w) != tuple(self.prior_size):
            raise ValueError(
                f"the feature map is {h}x{w} but the context prior was built for "
                f"{self.prior_size[0]}x{self.prior_size[1]}: the prior has one channel a position, so images must "
                "have the size of the training crop (larger ones go through sliding windows)"
            )
        if self.contexts not in ("both", "intra", "inter"):
            raise ValueError(f"contexts is {self.contexts!r}; it must be 'both', 'intra' or 'inter'")
        positions = self._aggregated(x, train).reshape(b, h * w, self.channels)
        prior = Prior(h * w, self.block_rows, name="prior")(positions, train=train)
        if targets is None:
            contexts = prior.contexts(positions, divide_by_n=self.divide_by_n)
        else:
            contexts, sums = prior.contexts_and_row_sums(positions, targets, divide_by_n=self.divide_by_n)
            prior = prior.replace(known=(targets, sums))
        named = {name: y.reshape(b, h, w, -1) for name, y in zip(("intra", "inter"), contexts, strict=True)}
        intra, inter = (
            ConvBN(self.channels, (1, 1), dtype=self.dtype, name=name)(context, train=train)
            if self.contexts in ("both", name)
            else None
            for name, context in named.items()
        )
        return intra, inter, prior

    def _aggregated(self, x: Array, train: bool) -> Float[Array, "b h w channels"]:
        if not self.aggregation:
            return ConvBN(self.channels, (3, 3), dtype=self.dtype, name="reduce")(x, train=train)
        return Aggregation(self.channels, self.aggregation_kernel, self.dtype, name="aggregation")(x, train=train)
