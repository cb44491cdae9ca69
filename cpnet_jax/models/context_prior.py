"""The Context Prior Layer of the paper: a learned affinity between positions splits context in two."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cpnet_jax.models.aggregation import Aggregation
from cpnet_jax.models.layers import BN_EPSILON, ConvBN, he_fan_out, move_running, unbiased


@flax.struct.dataclass
class PriorFactors:
    """The context prior P = sigmoid(features @ kernel + bias), kept as its factors.

    N is the number of positions of the feature map, row-major. Row i of P belongs to position i; column j says how
    much position j shares its class. The layer's BatchNorm is folded into `kernel` and `bias`, so the factors are all
    that the contexts and the affinity loss need: whoever reads them chooses whether an N x N array is ever stored.
    """

    features: Float[Array, "b n c"]
    kernel: Float[Array, "c n"]
    bias: Float[Array, " n"]

    def logits(self) -> Float[Array, "b n n"]:
        """Z with P = sigmoid(Z), at least float32 whatever the features are."""
        dtype = jnp.promote_types(self.features.dtype, jnp.float32)
        z = jnp.einsum("bnc,cm->bnm", self.features.astype(dtype), self.kernel.astype(dtype))
        return z + self.bias.astype(dtype)

    def contexts(self, values: Float[Array, "b n c"]) -> tuple[Float[Array, "b n c"], Float[Array, "b n c"]]:
        """Intra-class context P V / N and inter-class context (1 - P) V / N (Y and Y-bar of the paper).

        The division by N is the authors' release's; the paper leaves it out. Returned in the dtype of `values`.
        """
        prior = jax.nn.sigmoid(self.logits())
        v = values.astype(prior.dtype)
        gathered = prior @ v
        intra = gathered / v.shape[1]
        # (1 - P) V without a second N x N product.
        inter = (v.sum(axis=1, keepdims=True) - gathered) / v.shape[1]
        return intra.astype(values.dtype), inter.astype(values.dtype)


def product_moments(
    x: Float[Array, "b n c"], kernel: Float[Array, "c m"]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Mean and (biased) variance over all positions of x @ kernel, without forming the product.

    mean = mu . W and var_j = W_j^T Cov(x) W_j. x is centred first: uncentred moments cancel and can turn negative.
    """
    positions = x.shape[0] * x.shape[1]
    mu = x.mean(axis=(0, 1))
    centred = x - mu
    # TPUs multiply float32 in bfloat16 unless told otherwise, which a variance does not survive.
    high = jax.lax.Precision.HIGHEST
    covariance = jnp.einsum("bnc,bnd->cd", centred, centred, precision=high) / positions
    variance = (kernel * jnp.matmul(covariance, kernel, precision=high)).sum(axis=0)
    return jnp.matmul(mu, kernel, precision=high), variance


class Prior(nn.Module):
    """The 1x1 convolution C -> N and its BatchNorm, returned as `PriorFactors` with the norm folded in."""

    positions: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool) -> PriorFactors:
        n = self.positions
        kernel = self.param("kernel", he_fan_out, (x.shape[-1], n))
        scale = self.param("scale", nn.initializers.ones, (n,))
        bias = self.param("bias", nn.initializers.zeros, (n,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (n,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (n,))
        mean, var = running_mean.value, running_var.value
        if train:
            dtype = jnp.promote_types(x.dtype, jnp.float32)
            mean, var = product_moments(x.astype(dtype), kernel.astype(dtype))
            if not self.is_initializing():
                move_running(running_mean, mean)
                move_running(running_var, unbiased(var, x.shape[0] * x.shape[1]))
        factor = scale * jax.lax.rsqrt(var + BN_EPSILON)
        return PriorFactors(features=x, kernel=kernel * factor, bias=bias - mean * factor)


class ContextPrior(nn.Module):
    """Aggregation, context prior and the two contexts, each through a 1x1 convolution, BN and ReLU.

    Attributes:
      prior_size: (h, w) of the feature map; N = h * w is fixed, because the prior has N output channels.
      channels: of the aggregated features and of each context (the paper: 512).
      aggregation_kernel: k of the Aggregation Module (the paper: 11).
      dtype: of the activations; the prior itself is computed in float32.

    Raises:
      ValueError: where the feature map is not of `prior_size`.
    """

    prior_size: tuple[int, int]
    channels: int = 512
    aggregation_kernel: int = 11
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w cin"], *, train: bool
    ) -> tuple[Float[Array, "b h w channels"], Float[Array, "b h w channels"], PriorFactors]:
        """Returns (intra-class context, inter-class context, prior)."""
        b, h, w, _ = x.shape
        if (h, w) != tuple(self.prior_size):
            raise ValueError(
                f"the feature map is {h}x{w} but the context prior was built for "
                f"{self.prior_size[0]}x{self.prior_size[1]}: the prior has one channel a position, so images must "
                "have the size of the training crop (larger ones go through sliding windows)"
            )
        aggregated = Aggregation(self.channels, self.aggregation_kernel, self.dtype, name="aggregation")(x, train=train)
        positions = aggregated.reshape(b, h * w, self.channels)
        prior = Prior(h * w, name="prior")(positions, train=train)
        intra, inter = (context.reshape(b, h, w, self.channels) for context in prior.contexts(positions))
        intra = ConvBN(self.channels, (1, 1), dtype=self.dtype, name="intra")(intra, train=train)
        inter = ConvBN(self.channels, (1, 1), dtype=self.dtype, name="inter")(inter, train=train)
        return intra, inter, prior
