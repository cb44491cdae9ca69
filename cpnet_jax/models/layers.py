"""The layers everything else is made of: convolution, BatchNorm, and convolution + BN (+ ReLU)."""

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

BN_EPSILON = 1e-5
# linen weighs the old value, torch the new one: this is torch's momentum 0.1.
BN_MOMENTUM = 0.9


def he_fan_out(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """He initialisation by fan-out of a kernel (..., in, out), as in the authors' release and torchvision's ResNets."""
    *window, _, out = shape
    return _normal(key, shape, math.sqrt(2 / (math.prod(window) * out)), dtype)


def he_depthwise(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """He initialisation of a depthwise kernel (kh, kw, 1, channels).

    Each output channel feeds kh * kw values of its own, so that is its fan; counting the other channels too would
    shrink the activations by sqrt(channels) at each of the two convolutions.
    """
    return _normal(key, shape, math.sqrt(2 / (shape[0] * shape[1])), dtype)


def small_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """N(0, 0.01): the release's initialisation of its classifiers."""
    return _normal(key, shape, 0.01, dtype)


def _normal(key: jax.Array, shape: tuple[int, ...], std: float, dtype: Any) -> Array:
    """Normal numbers drawn on the host: XLA would compile a generator for every shape, seconds for a ResNet."""

    def draw(seed: np.ndarray) -> np.ndarray:
        return (std * np.random.default_rng(np.asarray(seed)).standard_normal(shape, np.float32)).astype(dtype)

    seed = key if jnp.issubdtype(key.dtype, jnp.uint32) else jax.random.key_data(key)
    return jax.pure_callback(draw, jax.ShapeDtypeStruct(shape, dtype), seed, vmap_method="sequential")


def conv(
    features: int,
    kernel_size: tuple[int, int],
    *,
    stride: int = 1,
    dilation: int = 1,
    **kwargs: Any,
) -> nn.Conv:
    """A convolution with torch's explicit symmetric padding (`SAME` shifts by a pixel at stride 2)."""
    padding = [(dilation * (k - 1) // 2,) * 2 for k in kernel_size]
    kwargs = {"kernel_init": he_fan_out, "use_bias": False} | kwargs
    return nn.Conv(
        features,
        kernel_size,
        strides=stride,
        padding=padding,
        kernel_dilation=dilation,
        conv_general_dilated=conv_general_dilated,
        **kwargs,
    )


class BatchNorm(nn.Module):
    """BatchNorm with torch's running statistics: y = (x - mean) / sqrt(var + 1e-5) * scale + bias over all positions.

    linen's keeps the biased batch variance as its running one. torch normalises with the biased variance, but keeps the
    unbiased one, n / (n - 1) times as much for n positions: the difference shows where n is small, and would stand in
    the way of continuing here what was trained there. Over the global batch when the step is jitted over a mesh.

    Attributes:
      scale_init: initialiser of the scale.
      dtype: of the result; parameters and statistics are float32 or, from a float64 x, float64.
      positions: whose channels follow each other in the last axis of x (`space_to_depth`); they are normalised alike.
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
    positions: int,
) -> tuple[Float[Array, " c"], Float[Array, " c"], Float[Array, " c"]]:
    """(mean, factor, bias) with which BatchNorm is (x - mean) * factor + bias.

    Declares its parameters and statistics in the module, in whose compact method it has to be called.

    Args:
      moments: gives the mean and the biased variance of the batch, towards which the running ones move; None: these are
        what is normalised with.
      positions: that the moments are of.
    """
    scale = module.param("scale", scale_init, (channels,))
    bias = module.param("bias", nn.initializers.zeros, (channels,))
    running_mean = module.variable("batch_stats", "mean", jnp.zeros, (channels,))
    running_var = module.variable("batch_stats", "var", jnp.ones, (channels,))
    mean, var = running_mean.value, running_var.value
    if moments:
        mean, var = moments()
        if not module.is_initializing():
            _move_running(running_mean, mean)
            _move_running(running_var, _unbiased(var, positions))
    return mean, jax.lax.rsqrt(var + BN_EPSILON) * scale, bias


def _moments(x: Float[Array, "*b p*c"], positions: int) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and biased variance in one pass over x: the mean first would cost another one, and on a mesh another
    exchange."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, mean_of_squares = _mean(x, positions), _mean(jnp.square(x), positions)
    # Rounding can turn the difference negative.
    return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0)


def _mean(x: Float[Array, "*b p*c"], positions: int) -> Float[Array, " c"]:
    axes = tuple(range(x.ndim - 1))
    if positions == 1:
        return x.mean(axes)
    # Within each example first, so that devices exchange one number a channel rather than one a channel and position.
    return x.mean(axes[1:]).reshape(-1, x.shape[-1] // positions).mean(axis=0)


def _spread(vector: Float[Array, " c"], x: Float[Array, "b *rest p*c"], positions: int) -> Array:
    """To be broadcast to x; for every example by itself, so that the sums on the way back are made like `_mean`."""
    if positions == 1:
        return vector
    b, *rest, channels = x.shape
    return jnp.broadcast_to(vector, (b, positions, len(vector))).reshape(b, *(1 for _ in rest), channels)


def _unbiased(variance: Float[Array, " c"], positions: int) -> Float[Array, " c"]:
    """The variance that torch keeps as its running one, of the biased one over so many positions.

    A single position, of which torch makes an error, has the variance 0 either way.
    """
    return variance * (positions / max(positions - 1, 1))


def _move_running(running: nn.Variable, value: Float[Array, " c"]) -> None:
    """Moves a running statistic a tenth of the way to that of the batch."""
    running.value = BN_MOMENTUM * running.value + (1 - BN_MOMENTUM) * value


class ConvBN(nn.Module):
    """Convolution without bias, BatchNorm and, by choice, ReLU.

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
        x = conv(
            self.features,
            self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(self.scale_init, self.dtype, name="bn")(x, train=train)
        return nn.relu(x) if self.relu else x


def call(module: nn.Module, x: Array, *, remat: bool, **options: Any) -> Any:
    """module(x, **options); with `remat`, what it computes on the way is not kept for its backward pass but computed
    again there."""
    if not remat:
        return module(x, **options)
    return nn.remat(lambda module, x: module(x, **options))(module, x)
