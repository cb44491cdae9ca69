"""Data parallelism: the mesh, what is replicated, what is split. Nothing else in the code names a device."""

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
