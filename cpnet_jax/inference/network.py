"""Compiles the network as a function of uint8 windows or whole images, over all devices."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.data.normalize import normalize
from cpnet_jax.inference.settings import windows_at_once
from cpnet_jax.models import CPNetOutput, PriorFactors
from cpnet_jax.runtime.programs import Programs, Traceable

# Which positions at output stride 8 are not padding; None: all.
Real = Bool[Array, "b h/8 w/8"] | None
# (windows, real positions, which may be left out) -> the network's outputs, all split over a mesh.
Network = Callable[..., CPNetOutput]


def compiled_logits(model: nn.Module, mesh: Mesh, *, mean: Sequence[float], std: Sequence[float]) -> Callable:
    """Returns the jitted function (variables, windows, real=None) -> logits; windows are split over the mesh.

    Args:
      model: a CPNet; `real` is the argument of its `__call__`.
      mean, std: normalisation constants, RGB, in units of 0 .. 255.
    """

    def logits(variables: PyTree, windows: UInt8[Array, "b h w 3"], real: Real = None) -> Float[Array, "b h/8 w/8 k"]:
        output: Any = model.apply(variables, normalize(windows, mean, std), train=False, real=real)
        return output.logits

    return jax.jit(sharding.in_context(logits, mesh), out_shardings=sharding.split(mesh))


def compiled_network(model: nn.Module, mesh: Mesh, *, mean: Sequence[float], std: Sequence[float]) -> Callable:
    """Returns the jitted function (variables, windows, real=None) -> CPNetOutput, split over the mesh; see
    `compiled_logits`."""

    def network(variables: PyTree, windows: UInt8[Array, "b h w 3"], real: Real = None) -> CPNetOutput:
        output: Any = model.apply(variables, normalize(windows, mean, std), train=False, real=real)
        logits, aux_logits, prior = output
        shared, each = prior.parts() if prior else ((), ())
        logits, aux_logits, each = jax.lax.with_sharding_constraint((logits, aux_logits, each), sharding.split(mesh))
        if prior:
            prior = PriorFactors(*each, *shared, block_rows=prior.block_rows, bfloat16=prior.bfloat16)
        return CPNetOutput(logits, aux_logits, prior)

    return jax.jit(sharding.in_context(network, mesh))


class CompiledNetworks:
    """The network of a config on this process's devices: compiled once, for the variables of any step.

    Windows of the crop size are computed by a program that is kept on disk. Whole images are compiled when the first of
    their size comes, and only JAX's own cache keeps those programs.

    Args:
      config: of the run; eval.batch_size is the number of windows of a device.
      model: the network.
      programs: where the compiled program is kept.
    """

    def __init__(self, config: ml_collections.ConfigDict, model: nn.Module, programs: Programs) -> None:
        self._data, self._model, self._programs = config.data, model, programs
        self._mesh = sharding.local_mesh()
        self._windows, self._batch_size = config.eval.windows, windows_at_once(config.eval.batch_size, self._mesh)

    def start_compiling(self, variables: Callable[[], PyTree]) -> None:
        """Starts to load or compile the network for windows in the background; does nothing without windows.

        Args:
          variables: returns variables, or the shapes and dtypes of some.
        """
        if self._windows:
            self._programs.start("network", lambda: self._traceable(variables()))

    def of(self, variables: PyTree) -> Network:
        """The network with these variables, which may be on another mesh."""
        variables = sharding.on_mesh(self._mesh, variables)

        def network(windows: UInt8[Array, "b h w 3"], real: Real = None) -> CPNetOutput:
            if real is not None:
                return self._function(variables, windows, real)
            return self._programs.get("network", lambda: self._traceable(variables))(variables, windows)

        return network

    @cached_property
    def _function(self) -> Callable[..., CPNetOutput]:
        return compiled_network(self._model, self._mesh, mean=self._data.mean, std=self._data.std)

    def _traceable(self, variables: PyTree) -> Traceable:
        replicated = sharding.replicated(self._mesh)
        variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), variables)
        shape = (self._batch_size, *self._data.crop_size, 3)
        windows = jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharding.split(self._mesh))
        return self._function, (variables, windows)
