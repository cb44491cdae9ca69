"""Data parallelism: the mesh, what is replicated, what is split. Nothing else in the code names a device."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh of these devices; of every device of every process unless given."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def local_mesh() -> Mesh:
    """A mesh of this process's devices, for work that the processes divide among them by examples."""
    return make_mesh(jax.local_devices())


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


def per_device(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The function run by each device on its own part of every argument and result, all split as by `split`."""
    spec = PartitionSpec(DATA_AXIS)
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def to_mesh(mesh: Mesh, replicated_elsewhere: Any) -> Any:
    """A pytree of arrays that every device of some other mesh holds -> the same on every device of this one."""
    local = jax.tree.map(lambda x: x.addressable_data(0), replicated_elsewhere)
    return jax.device_put(local, replicated(mesh))
