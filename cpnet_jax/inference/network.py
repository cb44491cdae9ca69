"""The network as a function of pixels: uint8 windows in, logits out, over every device."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.data.normalize import normalize

# Windows to logits at output stride 8, both split over a mesh.
Logits = Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h/8 w/8 k"]]


def compiled_logits(model: nn.Module, mesh: Mesh, *, mean: Sequence[float], std: Sequence[float]) -> Callable:
    """(variables, windows) -> logits, jitted once: windows are split over the mesh, variables replicated.

    Args:
      mean, std: of the images, RGB, in units of 0 .. 255.
    """

    def logits(variables: PyTree, windows: UInt8[Array, "b h w 3"]) -> Float[Array, "b h/8 w/8 k"]:
        return model.apply(variables, normalize(windows, mean, std), train=False).logits

    return jax.jit(sharding.in_context(logits, mesh), out_shardings=sharding.split(mesh))
