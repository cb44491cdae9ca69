"""The max-pool behind a ResNet's stem."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cpnet_jax.models.forms.platforms import Form, by_platform


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """The 3x3 max-pool of stride 2, padded by 1; of equal maxima the first in the order of rows has the gradient.

    On CPUs, where XLA takes ten times as long to find the maxima again for the gradient as for all else, it is written
    out in comparisons if both sides are even. Has first derivatives, in reverse mode.
    """
    if x.shape[1] % 2 or x.shape[2] % 2:
        return _windowed(x)
    return by_platform(
        cpu=Form(_compared, partial(_gradient, _compared)), default=Form(_windowed, partial(_gradient, _windowed))
    )(x)


def _gradient(form: Callable[[Array], Array], x: Array, cotangent: Array) -> tuple[Array]:
    return jax.vjp(form, x)[1](cotangent)


def _windowed(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _compared(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    # Columns first, so that among equals those of the first row win.
    return _largest_of_three(_largest_of_three(x.swapaxes(1, 2)).swapaxes(1, 2))


def _largest_of_three(x: Float[Array, "b n m c"]) -> Float[Array, "b n/2 m c"]:
    even, odd = x[:, ::2], x[:, 1::2]
    before = jnp.pad(odd[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)), constant_values=-jnp.inf)
    return first_largest(first_largest(before, even), odd)


def first_largest(x: Array, y: Array) -> Array:
    """Elementwise; x where they are equal. The derivative of `jnp.maximum` would share the gradient, at a division."""
    return jnp.where(x >= y, x, y)
