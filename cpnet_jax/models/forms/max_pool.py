"""The max-pool after a ResNet's stem."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cpnet_jax.models.forms.platforms import Form, by_platform


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The 3x3 max-pool of stride 2, padded by 1.

    If several maxima are equal, the first in row-major order gets the gradient. On CPUs, even sides are pooled by
    comparisons: XLA's gradient searches the maxima again, which takes ten times as long as everything else. Has first
    derivatives in reverse mode.
    """
    if x.shape[1] % 2 or x.shape[2] % 2:
        return _by_windows(x)
    default, cpu = (Form(value, partial(_gradient, value)) for value in (_by_windows, _by_comparisons))
    return by_platform(default, {"cpu": cpu}, x)


def _gradient(form: Callable[[Array], Array], x: Array, cotangent: Array) -> tuple[Array]:
    return jax.vjp(form, x)[1](cotangent)


def _by_windows(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _by_comparisons(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    # Columns first, so that the first row wins among equal values.
    return _max_of_three(_max_of_three(x.swapaxes(1, 2)).swapaxes(1, 2))


def _max_of_three(x: Float[Array, "b n m c"]) -> Float[Array, "b n2 m c"]:
    even, odd = x[:, ::2], x[:, 1::2]
    before = jnp.pad(odd[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)), constant_values=-jnp.inf)
    return maximum_first_wins(maximum_first_wins(before, even), odd)


def maximum_first_wins(x: Array, y: Array) -> Array:
    """Elementwise maximum whose gradient goes to x if both are equal; `jnp.maximum` would share it, at a division."""
    return jnp.where(x >= y, x, y)
