"""Data parallelism: the mesh, what is replicated, what is split. Nothing else in the code names a device."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
T = TypeVar("T")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh of these devices, in the processes' order; of every device of every process unless given.

    `jax.make_mesh` would put neighbours on the chips' network side by side, which is of no use where all of them reduce
    together, and might tear a process's part of a batch apart.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


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


def per_device(function: Callable[..., Any], mesh: Mesh, *, replicated: int = 0) -> Callable[..., Any]:
    """The function run by each device on its own part of every argument and result, all split as by `split`, but for
    the first `replicated` arguments, which every device has as a whole."""
    whole, part = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def run(*arguments: Any) -> Any:
        specs = (whole,) * replicated + (part,) * (len(arguments) - replicated)
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=part, check_vma=False)(*arguments)

    return run


def in_context(function: Callable[..., T], mesh: Mesh) -> Callable[..., T]:
    """The function, to be jitted, for global arrays, with the mesh in context as it is traced: what the compiler is not
    trusted to divide over the devices by itself asks there how it is divided (see `models.forms.row_blocks`)."""

    @functools.wraps(function)
    def run(*arguments: Any) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return run


def on_mesh(mesh: Mesh, arrays: Any) -> Any:
    """A pytree of arrays that the devices of another mesh each hold -> the same, held by the devices of this one."""
    return jax.device_put(jax.tree.map(lambda x: x.addressable_data(0), arrays), replicated(mesh))


def on_every_device(mesh: Mesh, arrays: Any) -> Any:
    """A pytree of arrays that every process has alike -> the same, held by every device of the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(x)), arrays)


def is_on_cpus(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def is_on_tpus(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "tpu"
