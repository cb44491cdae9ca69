"""The non-local block (Wang et al., CVPR 2018): every position looks at every other one."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cpnet_jax.models.layers import ConvBN, small_normal


class NonLocalBlock(nn.Module):
    """x + BN(conv(softmax(theta phi^T / sqrt(d)) g)): "embedded Gaussian", with 1x1 convolutions to d channels each.

    The scale sqrt(d) is mmsegmentation's, not the paper's. Its BatchNorm starts at zero, so the block as the identity.

    Attributes:
      channels: d (half the input's).
      dtype: of the activations; the softmax is float32 or, from a float64 x, float64.
    """

    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        embedding = partial(nn.Conv, self.channels, (1, 1), kernel_init=small_normal, dtype=self.dtype)
        # With an axis of one attention head.
        theta, phi, g = (embedding(name=name)(x).reshape(b, h * w, 1, self.channels) for name in ("theta", "phi", "g"))
        y = jax.nn.dot_product_attention(theta, phi, g).reshape(b, h, w, self.channels)
        zeros = nn.initializers.zeros
        return x + ConvBN(c, (1, 1), relu=False, scale_init=zeros, dtype=self.dtype, name="out")(y, train=train)


class NonLocal(nn.Module):
    """x, and behind it a 3x3 reduction of it that went through a non-local block and another 3x3 convolution.

    As mmsegmentation's NLHead, whose last 3x3 convolution is the head's here. Attention takes arrays of N x N for N
    positions: for each image as many floats as the context prior with `prior_impl="dense"`.

    Attributes:
      channels: of the reduction and of what is returned behind x (512); the block works with half of them.
      dtype: of the activations.
    """

    channels: int = 512
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c+channels"]:
        y = ConvBN(self.channels, (3, 3), dtype=self.dtype, name="reduce")(x, train=train)
        y = NonLocalBlock(max(self.channels // 2, 1), self.dtype, name="block")(y, train=train)
        y = ConvBN(self.channels, (3, 3), dtype=self.dtype, name="conv")(y, train=train)
        return jnp.concatenate([x, y], axis=-1)
