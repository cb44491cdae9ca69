"""Compiles the network as a function of uint8 windows, over all devices."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.data.normalize import normalize
from cpnet_jax.inference.settings import windows_at_once
from cpnet_jax.models import CPNetOutput, PriorFactors
from cpnet_jax.runtime.programs import Programs, Traceable

# Maps windows to logits at output stride 8, both split over a mesh.
Logits = Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h/8 w/8 k"]]
# The same with the network's other outputs.
Network = Callable[[UInt8[Array, "b h w 3"]], CPNetOutput]


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
        shared, each = prior.parts() if prior else ((), ())
        logits, aux_logits, each = jax.lax.with_sharding_constraint((logits, aux_logits, each), sharding.split(mesh))
        return CPNetOutput(
            logits, aux_logits, PriorFactors(*each, *shared, block_rows=prior.block_rows) if prior else None
        )

    return jax.jit(sharding.in_context(network, mesh))


class CompiledNetworks:
    """The network of a config on this process's devices: compiled once, for the variables of any step.

    Args:
      config: of the run; eval.batch_size is the number of windows of a device.
      model: the network.
      programs: where the compiled program is kept.
    """

    def __init__(self, config: ml_collections.ConfigDict, model: nn.Module, programs: Programs) -> None:
        self._data, self._model, self._programs = config.data, model, programs
        self._mesh = sharding.local_mesh()
        self._batch_size = windows_at_once(config.eval.batch_size, self._mesh)

    def start_compiling(self, variables: Callable[[], PyTree]) -> None:
        """Starts to load or compile the network in the background.

        Args:
          variables: returns variables, or the shapes and dtypes of some.
        """
        self._programs.start("network", lambda: self._traceable(variables()))

    def of(self, variables: PyTree) -> Network:
        """The network with these variables, which may be on another mesh."""
        variables = sharding.on_mesh(self._mesh, variables)
        return partial(self._programs.get("network", lambda: self._traceable(variables)), variables)

    def _traceable(self, variables: PyTree) -> Traceable:
        data, replicated = self._data, sharding.replicated(self._mesh)
        variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), variables)
        shape = (self._batch_size, *data.crop_size, 3)
        windows = jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharding.split(self._mesh))
        return compiled_network(self._model, self._mesh, mean=data.mean, std=data.std), (variables, windows)
