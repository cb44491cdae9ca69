"""The network as a function of pixels: uint8 windows in, class probabilities out, over every device."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.data.normalize import normalize
from cpnet_jax.models import upsample

# (variables, windows) -> probabilities
ApplyNetwork = Callable[[PyTree, UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w k"]]


def compiled_network(model: nn.Module, mesh: Mesh, *, mean: Sequence[float], std: Sequence[float]) -> ApplyNetwork:
    """Softmax of the upsampled logits, jitted once: its input is split over the mesh, the variables are replicated.

    Args:
      mean, std: of the images, in units of 0 .. 255.
    """

    def probabilities(variables: PyTree, windows: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w k"]:
        output = model.apply(variables, normalize(windows, mean, std), train=False)
        return jax.nn.softmax(upsample(output.logits, windows.shape[1:3]), axis=-1)

    jitted = jax.jit(probabilities)
    return lambda variables, windows: np.asarray(jitted(variables, sharding.to_devices(mesh, windows)))
