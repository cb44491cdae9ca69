"""Functions that some platforms compute in another way than others, and how many images they are given."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
from jax.sharding import AxisType
from jaxtyping import Array

# Images side by side in the tiles in which TPUs keep the arrays of a convolution.
TPU_TILE = 8


class Form(NamedTuple):
    """One way to compute a function of some arrays.

    Attributes:
      value: of the arrays.
      gradients: of the arrays and a cotangent of the value, for each of the arrays.
    """

    value: Callable[..., Array]
    gradients: Callable[..., tuple[Array, ...]]


def by_platform(*, default: Form, **forms: Form) -> Callable[..., Array]:
    """A function that has on each platform the form named after it ("cpu", "tpu"), and elsewhere the default, whatever
    the platform that it is traced on.

    Has first derivatives, in reverse mode. The choice is made once for the value and once for the gradients: were the
    chosen value differentiated, JAX would keep for its backward pass whatever either form needs.
    """

    @jax.custom_vjp
    def function(*arrays: Array) -> Array:
        values = {platform: form.value for platform, form in forms.items()}
        return lax.platform_dependent(*arrays, default=default.value, **values)

    def forward(*arrays: Array) -> tuple[Array, tuple[Array, ...]]:
        return function(*arrays), arrays

    def backward(arrays: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
        gradients = {platform: form.gradients for platform, form in forms.items()}
        return lax.platform_dependent(*arrays, cotangent, default=default.gradients, **gradients)

    function.defvjp(forward, backward)
    return function


def axes_to_divide(batch: int) -> tuple[str, ...]:
    """The axes of the mesh in context (see `sharding.in_context`) that nothing has divided yet; none where they do not
    divide the batch."""
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    axes = tuple(name for name, kind in types if kind != AxisType.Manual and mesh.shape[name] > 1)
    return axes if batch % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()


def fills_tiles(batch: int) -> bool:
    """Whether the images that each device has of a batch leave none of a TPU's tiles partly empty."""
    mesh = jax.sharding.get_abstract_mesh()
    return batch // math.prod(mesh.shape[axis] for axis in axes_to_divide(batch)) % TPU_TILE == 0
