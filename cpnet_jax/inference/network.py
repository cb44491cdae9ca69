"""Compiles the network as a function from uint8 windows to logits, over all devices."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.data.normalize import normalize

# Maps windows to logits at output stride 8, both split over a mesh.
Logits = Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h/8 w/8 k"]]


def compiled_logits(model: nn.Module, mesh: Mesh, *, mean: Sequence[float], std: Sequence[float]) -> Callable:
    """Returns the jitted function (variables, windows) -> logits; windows are split over the mesh.

    Args:
      mean, std: normalisation constants, RGB, in units of 0 .. 255.
    """

    def logits(variables: PyTree, windows: UInt8[Array, "b h w 3"]) -> Float[Array, "b h/8 w/8 k"]:
        output: Any = model.apply(variables, normalize(windows, mean, std), train=False)
        return output.logits

    return jax.jit(sharding.in_context(logits, mesh), out_shardings=sharding.split(mesh))
