"""Data parallelism: the device mesh, and which arrays are replicated or split. No other module names a device."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
T = TypeVar("T")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh of the devices in process order; by default of all devices of all processes.

    Not `jax.make_mesh`: it orders devices by their network, which does not help reductions over all of them, and it may
    separate the devices of one process, which hold neighbouring parts of a batch.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def local_mesh() -> Mesh:
    """A mesh of this process's devices, for work that is divided between processes by example."""
    return make_mesh(jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of the training state: every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Sharding of batches: the leading axis is divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def to_devices(mesh: Mesh, batch: Any) -> Any:
    """Converts this process's part of a global batch, a pytree, to global arrays split over the mesh."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def per_device(function: Callable[..., Any], mesh: Mesh, *, replicated: int = 0) -> Callable[..., Any]:
    """Makes a function run on each device on its part of the arguments, and return its part of the results.

    Arguments and results are split as by `split`, except the first `replicated` arguments, which are whole.
    """
    whole, part = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def run(*arguments: Any) -> Any:
        specs = (whole,) * replicated + (part,) * (len(arguments) - replicated)
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=part, check_vma=False)(*arguments)

    return run


def in_context(function: Callable[..., T], mesh: Mesh) -> Callable[..., T]:
    """Puts the mesh in context while the function is traced under jit.

    Code that divides its work by `jax.shard_map` reads the mesh there (see `models.forms.row_blocks`).
    """

    @functools.wraps(function)
    def run(*arguments: Any) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return run


def on_mesh(mesh: Mesh, arrays: Any) -> Any:
    """Copies a pytree of arrays, replicated on another mesh, to every device of this mesh."""
    return jax.device_put(jax.tree.map(lambda x: x.addressable_data(0), arrays), replicated(mesh))


def on_every_device(mesh: Mesh, arrays: Any) -> Any:
    """Copies a pytree of arrays, equal on every process, to every device of the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(x)), arrays)


def is_on_cpus(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def is_on_tpus(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "tpu"
