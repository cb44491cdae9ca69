"""Choice of form by the platform that a program is compiled for, and by how many images a device has."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import AxisType
from jaxtyping import Array

# A convolution on TPUs keeps this many images of a batch side by side in a tile.
TPU_TILE = 8

# Length of an axis: an int, or a symbolic dimension of a program that is exported for any batch size.
Size = Any


class Form(NamedTuple):
    """One way to compute a function of some arrays.

    Attributes:
      value: computes the function from the arrays.
      gradients: computes the gradient for each array, from the arrays and the cotangent of the value.
    """

    value: Callable[..., Array]
    gradients: Callable[..., tuple[Array, ...]]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def by_platform(default: Form, forms: Mapping[str, Form], *arrays: Array) -> Array:
    """Computes a function of the arrays in the form of the platform it is compiled for ("cpu", "tpu"), or the default.

    Has first derivatives in reverse mode. Value and gradients are chosen separately: if the chosen value were
    differentiated, JAX would store everything that the backward pass of any of the forms needs.

    Args:
      default: the form of every other platform.
      forms: name of a platform -> its form.
      *arrays: the arguments of the forms.
    """
    values = {platform: form.value for platform, form in forms.items()}
    return lax.platform_dependent(*arrays, default=default.value, **values)


def _forward(default: Form, forms: Mapping[str, Form], *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
    return by_platform(default, forms, *arrays), arrays


def _backward(
    default: Form, forms: Mapping[str, Form], arrays: tuple[Array, ...], cotangent: Array
) -> tuple[Array, ...]:
    gradients = {platform: form.gradients for platform, form in forms.items()}
    return lax.platform_dependent(*arrays, cotangent, default=default.gradients, **gradients)


by_platform.defvjp(_forward, _backward)


def axes_to_divide(batch: Size) -> tuple[str, ...]:
    """Axes of the current mesh (see `sharding.in_context`) that no surrounding `shard_map` has divided yet.

    Empty if these axes do not divide the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    axes = tuple(name for name, kind in types if kind != AxisType.Manual and mesh.shape[name] > 1)
    return axes if batch % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()


def fills_tiles(batch: Size) -> bool:
    """Whether each device's images of this batch fill whole tiles of a TPU."""
    mesh = jax.sharding.get_abstract_mesh()
    return batch // math.prod(mesh.shape[axis] for axis in axes_to_divide(batch)) % TPU_TILE == 0
