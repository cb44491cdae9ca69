"""1x1 convolutions with their BatchNorm folded in, both in training and in inference.

BatchNorm of z = x W is z * factor + shift. Factor and shift follow from the mean and the variance of z, which follow
from those of x:

    E[z] = E[x] W        Var[z_j] = W_j^T Cov[x] W_j

So z is not needed: the normalised values are x (W * factor) + shift, one convolution. Cov[x] takes c x c products a
position. That is cheap if the convolution has many more output than input channels, and it saves a pass over z, which
is large.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cpnet_jax.models.forms.convolution import conv_general_dilated
from cpnet_jax.models.forms.platforms import Form, by_platform
from cpnet_jax.models.layers import Param, he_fan_out, normalisation


class FoldedConvBN(nn.Module):
    """`layers.ConvBN` without ReLU, for 1x1 kernels: equal results except for rounding, and equal parameters.

    Attributes:
      features: output channels.
      scale_init: initialiser of the BatchNorm's scale.
      dtype: of the activations; parameters and statistics stay float32.
    """

    features: int
    scale_init: Any = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h w features"]:
        kernel = _Kernel((x.shape[-1], self.features), name="conv")()
        kernel, shift = _Folded(self.scale_init, name="bn")(x, kernel, train=train)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        options = {"rhs_dilation": (1, 1), "feature_group_count": 1, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        y = conv_general_dilated(x, kernel[None, None], (1, 1), [(0, 0), (0, 0)], **options)
        return (y + shift).astype(self.dtype or y.dtype)


class _Kernel(nn.Module):
    """Holds the parameter of a 1x1 convolution."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> Float[Param, "cin cout"]:
        return self.param("kernel", he_fan_out, (1, 1, *self.shape))[0, 0]


class _Folded(nn.Module):
    """Holds the parameters of a BatchNorm; returns kernel and bias with the BatchNorm folded in."""

    scale_init: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b cin"], kernel: Float[Param, "cin cout"], *, train: bool
    ) -> tuple[Float[Array, "cin cout"], Float[Array, " cout"]]:
        return fold(self, self.scale_init, x, kernel, train=train)


def fold(
    module: nn.Module, scale_init: Any, x: Float[Array, "*b cin"], kernel: Float[Param, "cin cout"], *, train: bool
) -> tuple[Float[Array, "cin cout"], Float[Array, " cout"]]:
    """Returns (kernel2, bias) such that x @ kernel2 + bias is the BatchNorm of x @ kernel.

    Declares the BatchNorm's parameters and statistics in the module, so it must be called from the module's compact
    method.
    """

    def moments() -> tuple[Array, Array]:
        return product_moments(x, kernel.astype(jnp.promote_types(x.dtype, jnp.float32)))

    mean, factor, bias = normalisation(
        module, kernel.shape[1], scale_init, moments if train else None, x.size // x.shape[-1]
    )
    return jnp.asarray(kernel * factor), jnp.asarray(bias - mean * factor)


def product_moments(
    x: Float[Array, "*b cin"], kernel: Float[Param, "cin cout"]
) -> tuple[Float[Array, " cout"], Float[Array, " cout"]]:
    """Mean and (biased) variance over all positions of x @ kernel, without computing the product."""
    # By default TPUs multiply float32 in bfloat16, which is too coarse for a variance.
    high = jax.lax.Precision.HIGHEST
    mean, covariance = _covariance(x)
    variance = (kernel * jnp.matmul(covariance, kernel, precision=high)).sum(axis=0)
    # Rounding can turn it negative.
    return jnp.matmul(mean, kernel, precision=high), jnp.maximum(variance, 0)


def _covariance(x: Float[Array, "*b c"]) -> tuple[Float[Array, " c"], Float[Array, "c c"]]:
    """Mean and (biased) covariance over all positions, in float32 or wider."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    mean = x.mean(axis=range(x.ndim - 1), dtype=dtype)
    positions = x.size // x.shape[-1]
    if x.dtype == dtype:
        centred = x - mean  # uncentred moments cancel
        return mean, jnp.einsum("...c,...d->cd", centred, centred, precision=jax.lax.Precision.HIGHEST) / positions
    # Products of bfloat16 are exact in float32, in which they are summed. Cancellation then loses less than rounding x
    # to bfloat16 has lost already. Centred x would need products in float32, which take TPUs six times as long.
    return mean, _gram(x) / positions - mean[:, None] * mean


def _gram(x: Float[Array, "*b c"]) -> Float[Array, "c c"]:
    """Sum of x x^T over all positions in float32, of an x that is narrower."""
    # On TPUs as a convolution, the gradient of a 1x1 kernel: a product would copy the images to another layout.
    forms = {"tpu": Form(_gram_by_convolution, _gram_gradient)} if x.ndim == 4 else {}
    return by_platform(Form(_gram_by_product, _gram_gradient), forms, x)


def _gram_by_product(x: Float[Array, "*b c"]) -> Float[Array, "c c"]:
    x = x.reshape(-1, x.shape[-1])
    return jnp.einsum("nc,nd->cd", x, x, preferred_element_type=jnp.float32)


def _gram_by_convolution(x: Float[Array, "b h w c"]) -> Float[Array, "c c"]:
    # The channels of both arguments remain, images are the axis summed over, and the window has the images' size.
    dimensions = jax.lax.ConvDimensionNumbers((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))
    gram = jax.lax.conv_general_dilated(
        x, x, (1, 1), "VALID", dimension_numbers=dimensions, preferred_element_type=jnp.float32
    )
    return gram[0, 0]


def _gram_gradient(x: Float[Array, "*b c"], cotangent: Float[Array, "c c"]) -> tuple[Float[Array, "*b c"]]:
    return (x @ (cotangent + cotangent.T).astype(x.dtype),)
