"""Data parallelism: the mesh, what is replicated, what is split. Nothing else in the code names a device."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh() -> Mesh:
    """A one-dimensional mesh of every device of every process."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: the training state."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis is divided over the devices: batches."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def to_devices(mesh: Mesh, batch: Any) -> Any:
    """A pytree of this process's part of a global batch -> global arrays split over the mesh."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def per_device(function: Callable[..., Any], mesh: Mesh, *, replicated_arguments: int = 0) -> Callable[..., Any]:
    """The function run by each device on its part of a batch, for functions that XLA must not divide itself.

    Args:
      function: of some arguments that every device has whole, then one that is split like what it returns.
    """
    parts = (*[PartitionSpec()] * replicated_arguments, PartitionSpec(DATA_AXIS))
    return jax.shard_map(function, mesh=mesh, in_specs=parts, out_specs=PartitionSpec(DATA_AXIS))
