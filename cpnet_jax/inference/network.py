"""Compiles the network as a function of uint8 windows, over all devices."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.data.normalize import normalize
from cpnet_jax.models import CPNetOutput

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


def compiled_network(model: nn.Module, mesh: Mesh, *, mean: Sequence[float], std: Sequence[float]) -> Callable:
    """Returns the jitted function (variables, windows) -> CPNetOutput, split over the mesh; see `compiled_logits`."""

    def network(variables: PyTree, windows: UInt8[Array, "b h w 3"]) -> CPNetOutput:
        output: Any = model.apply(variables, normalize(windows, mean, std), train=False)
        logits, aux_logits, prior = output
        # The prior's other factors are parameters, shared by all windows.
        features = None if prior is None else prior.features
        logits, aux_logits, features = jax.lax.with_sharding_constraint(
            (logits, aux_logits, features), sharding.split(mesh)
        )
        return CPNetOutput(logits, aux_logits, None if prior is None else replace(prior, features=features))

    return jax.jit(sharding.in_context(network, mesh))
