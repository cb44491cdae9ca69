"""The layers that all modules are built from: convolution, BatchNorm, and convolution + BatchNorm (+ ReLU)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cpnet_jax.models.forms.convolution import conv_general_dilated
from cpnet_jax.models.forms.platforms import Size

BN_EPSILON = 1e-5
# linen weighs the old value, torch the new one: this is torch's momentum 0.1.
BN_MOMENTUM = 0.9
# Parameters are NumPy arrays if a module is applied to variables as a checkpoint holds them.
Param = Array | np.ndarray


def he_fan_out(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """He initialisation by fan-out of a kernel (..., in, out), as in the authors' release and torchvision's ResNets."""
    *window, _, out = shape
    return _normal(key, shape, math.sqrt(2 / (math.prod(window) * out)), dtype)


def he_depthwise(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """He initialisation of a depthwise kernel (kh, kw, 1, channels).

    An input channel feeds kh * kw outputs only, so that is its fan-out. Counting all channels would shrink the
    activations by sqrt(channels) at each of the two convolutions.
    """
    return _normal(key, shape, math.sqrt(2 / (shape[0] * shape[1])), dtype)


def small_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Normal initialisation with standard deviation 0.01, as the release initialises its classifiers."""
    return _normal(key, shape, 0.01, dtype)


def _normal(key: jax.Array, shape: tuple[int, ...], std: float, dtype: Any) -> Array:
    """Draws on the host: XLA would compile a generator for every shape, which takes seconds for a ResNet."""
    seed = key if jnp.issubdtype(key.dtype, jnp.uint32) else jax.random.key_data(key)
    draw = partial(_draw, shape, std, dtype)
    return jax.pure_callback(draw, jax.ShapeDtypeStruct(shape, dtype), seed, vmap_method="sequential")


def _draw(shape: tuple[int, ...], std: float, dtype: Any, seed: Array) -> np.ndarray:
    return (std * np.random.default_rng(np.asarray(seed)).standard_normal(shape, np.float32)).astype(dtype)


def conv(
    features: int,
    kernel_size: tuple[int, int],
    *,
    stride: int = 1,
    dilation: int = 1,
    **options: Any,
) -> nn.Conv:
    """A convolution with torch's explicit symmetric padding (`SAME` shifts by a pixel at stride 2)."""
    padding = [(dilation * (k - 1) // 2,) * 2 for k in kernel_size]
    options = {"kernel_init": he_fan_out, "use_bias": False, **options}
    return nn.Conv(
        features,
        kernel_size,
        strides=stride,
        padding=padding,
        kernel_dilation=dilation,
        conv_general_dilated=conv_general_dilated,
        **options,
    )


class BatchNorm(nn.Module):
    """BatchNorm with torch's running statistics: y = (x - mean) / sqrt(var + 1e-5) * scale + bias over all positions.

    Both normalise with the biased variance of the batch. linen's also stores that one, torch's stores the unbiased one,
    n / (n - 1) times as large for n positions. Storing torch's lets training started there continue here. Statistics
    are those of the global batch when the step is jitted over a mesh.

    Attributes:
      scale_init: initialiser of the scale.
      dtype: of the result; parameters and statistics are float32, or float64 if x is.
      positions: how many positions lie side by side in the last axis of x (see `forms.space_to_depth`); all of them
        share their statistics.
    """

    scale_init: Any = nn.initializers.ones
    dtype: Any = None
    positions: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"], *, train: bool) -> Float[Array, "*b c"]:
        channels = x.shape[-1] // self.positions
        moments = partial(_moments, x, self.positions) if train else None
        vectors = normalisation(self, channels, self.scale_init, moments, x.size // channels)
        mean, factor, bias = (_spread(vector, x, self.positions) for vector in vectors)
        y = (x - mean) * factor + bias
        return y.astype(self.dtype or y.dtype)


def normalisation(
    module: nn.Module,
    channels: int,
    scale_init: Any,
    moments: Callable[[], tuple[Float[Array, " c"], Float[Array, " c"]]] | None,
    positions: Size,
) -> tuple[Float[Param, " c"], Float[Param, " c"], Float[Param, " c"]]:
    """Returns (mean, factor, bias) with which BatchNorm is (x - mean) * factor + bias.

    Declares the parameters and statistics in the module, so it must be called from the module's compact method.

    Args:
      moments: returns the mean and the biased variance of the batch, and the running statistics move towards them.
        None normalises with the running statistics.
      positions: number of positions that the moments are taken over.
    """
    scale = module.param("scale", scale_init, (channels,))
    bias = module.param("bias", nn.initializers.zeros, (channels,))
    running_mean = module.variable("batch_stats", "mean", jnp.zeros, (channels,))
    running_var = module.variable("batch_stats", "var", jnp.ones, (channels,))
    mean, var = running_mean.value, running_var.value
    if moments:
        mean, var = moments()
        if not module.is_initializing():
            _update(running_mean, mean)
            # The unbiased variance; one position has the variance 0 either way.
            _update(running_var, var * (positions / max(positions - 1, 1)))
    return mean, jax.lax.rsqrt(var + BN_EPSILON) * scale, bias


def _update(running: nn.Variable, value: Float[Array, " c"]) -> None:
    running.value = BN_MOMENTUM * running.value + (1 - BN_MOMENTUM) * value


def _moments(x: Float[Array, "*b pc"], positions: int) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and biased variance in one pass over x. Subtracting the mean first would take a second pass over x and, on a
    mesh, a second exchange between devices."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, mean_of_squares = _mean(x, positions), _mean(jnp.square(x), positions)
    # Rounding can turn the difference negative.
    return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0)


def _mean(x: Float[Array, "*b pc"], positions: int) -> Float[Array, " c"]:
    axes = tuple(range(x.ndim - 1))
    if positions == 1:
        return x.mean(axes)
    # Within each example first, so that devices exchange one number a channel, not one a channel and position.
    return x.mean(axes[1:]).reshape(-1, x.shape[-1] // positions).mean(axis=0)


def _spread(vector: Float[Param, " c"], x: Float[Array, "b *rest pc"], positions: int) -> Float[Param, "..."]:
    """Repeats the vector for every position in the last axis, so that it broadcasts against x.

    Repeated for every example, too, so that the gradient is summed within each example first, as in `_mean`.
    """
    if positions == 1:
        return vector
    b, *rest, channels = x.shape
    return jnp.broadcast_to(vector, (b, positions, len(vector))).reshape(b, *(1 for _ in rest), channels)


class ConvBN(nn.Module):
    """Convolution without bias, BatchNorm and an optional ReLU.

    Attributes:
      features: output channels.
      kernel_size: (height, width).
      stride, dilation: of the convolution.
      relu: whether a ReLU follows.
      scale_init: initialiser of the BatchNorm's scale.
      dtype: of the activations; parameters and statistics stay float32.
    """

    features: int
    kernel_size: tuple[int, int]
    stride: int = 1
    dilation: int = 1
    relu: bool = True
    scale_init: Any = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h2 w2 features"]:
        options = {"stride": self.stride, "dilation": self.dilation, "dtype": self.dtype}
        x = conv(self.features, self.kernel_size, **options, name="conv")(x)
        x = BatchNorm(self.scale_init, self.dtype, name="bn")(x, train=train)
        return nn.relu(x) if self.relu else x
