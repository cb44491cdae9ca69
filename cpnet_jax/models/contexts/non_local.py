"""The non-local block (Wang et al., CVPR 2018): attention between all positions."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cpnet_jax.models.layers import ConvBN, small_normal


class NonLocalBlock(nn.Module):
    """x + BatchNorm(conv(softmax(theta phi^T / sqrt(d)) g)): "embedded Gaussian", all convolutions 1x1.

    The scale sqrt(d) is mmsegmentation's, not the paper's. The BatchNorm starts at zero, so the block starts as the
    identity.

    Attributes:
      channels: d, of theta, phi and g.
      dtype: of the activations; the softmax is float32, or float64 if x is.
    """

    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool, real: Bool[Array, "b h w"] | None = None
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        embedding = partial(nn.Conv, self.channels, (1, 1), kernel_init=small_normal, dtype=self.dtype)
        theta, phi, g = (embedding(name=name)(x).reshape(b, h * w, self.channels) for name in ("theta", "phi", "g"))
        full = jnp.promote_types(x.dtype, jnp.float32)
        logits = jnp.einsum("bnd,bmd->bnm", theta, phi, preferred_element_type=full) / math.sqrt(self.channels)
        if real is not None:
            logits = jnp.where(real.reshape(b, 1, h * w), logits, -jnp.inf)
        # Not jax.nn.dot_product_attention, which computes float64 in float32.
        weights = nn.softmax(logits).astype(g.dtype)
        y = jnp.einsum("bnm,bmd->bnd", weights, g).reshape(b, h, w, self.channels)
        zeros = nn.initializers.zeros
        return x + ConvBN(c, (1, 1), relu=False, scale_init=zeros, dtype=self.dtype, name="out")(y, train=train)


class NonLocal(nn.Module):
    """x concatenated with a 3x3 reduction of x, a non-local block and another 3x3 convolution.

    Follows mmsegmentation's NLHead, whose last 3x3 convolution is the head's here. Attention stores arrays of N x N for
    N positions.

    Attributes:
      channels: of the reduction and of the last convolution (512); the block has half as many.
      dtype: of the activations.
    """

    channels: int = 512
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool, real: Bool[Array, "b h w"] | None = None
    ) -> Float[Array, "b h w c2"]:
        y = ConvBN(self.channels, (3, 3), dtype=self.dtype, name="reduce")(x, train=train)
        y = NonLocalBlock(max(self.channels // 2, 1), self.dtype, name="block")(y, train=train, real=real)
        y = ConvBN(self.channels, (3, 3), dtype=self.dtype, name="conv")(y, train=train)
        return jnp.concatenate([x, y], axis=-1)
