"""Functions that CPUs compute in another way than accelerators."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
from jaxtyping import Array


class Form(NamedTuple):
    """One way to compute a function of some arrays.

    Attributes:
      value: of the arrays.
      gradients: of the arrays and a cotangent of the value, for each of the arrays.
    """

    value: Callable[..., Array]
    gradients: Callable[..., tuple[Array, ...]]


def by_platform(*, cpu: Form, default: Form) -> Callable[..., Array]:
    """A function that is `cpu` on CPUs and `default` elsewhere, whatever the platform that it is traced on.

    Has first derivatives, in reverse mode. The choice is made once for the value and once for the gradients: were the
    chosen value differentiated, JAX would keep for its backward pass whatever either form needs.
    """

    @jax.custom_vjp
    def function(*arrays: Array) -> Array:
        return lax.platform_dependent(*arrays, cpu=cpu.value, default=default.value)

    def forward(*arrays: Array) -> tuple[Array, tuple[Array, ...]]:
        return function(*arrays), arrays

    def backward(arrays: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
        return lax.platform_dependent(*arrays, cotangent, cpu=cpu.gradients, default=default.gradients)

    function.defvjp(forward, backward)
    return function
