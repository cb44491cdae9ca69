"""Data parallelism: the mesh, what is replicated, what is split. Nothing else in the code names a device."""

import functools
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cpnet_jax.errors import UserError

DATA_AXIS = "data"
# As the collectives and the runtime put it; they have no exception of their own.
LOST_PEER = re.compile(r"Gloo \w+ failed|UNAVAILABLE|[Hh]eartbeat|coordination service")
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
    trusted to divide over the devices by itself asks there how it is divided (see `models.row_blocks`)."""

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


def process() -> tuple[int, int]:
    """(index, count) of this process."""
    return jax.process_index(), jax.process_count()


def is_main_process() -> bool:
    """Whether this is the process that writes what all of them found."""
    return jax.process_index() == 0


def is_lost_peer(error: BaseException) -> bool:
    """Whether this came of a collective at whose other end a process is gone."""
    return jax.process_count() > 1 and bool(LOST_PEER.search(str(error)))


def my_places(count: int) -> range:
    """This process's part of `count` places, strided over the processes."""
    return range(jax.process_index(), count, jax.process_count())


def gather(value: Any) -> list[Any]:
    """What every process passed in (anything that can be pickled), in their order; all of them get it."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(data.size))
    parts = multihost_utils.process_allgather(np.pad(data, (0, sizes.max() - data.size)))
    return [pickle.loads(part[:size]) for part, size in zip(parts, sizes, strict=True)]


def wait_for_all() -> None:
    """Returns once every process has come here."""
    gather(None)


def on_all(function: Callable[[], T]) -> T:
    """What the function returns here, once it has returned on every process.

    Raises:
      UserError: on all of them where one raised it, so that none waits for another in vain.
    """
    result, error = None, None
    try:
        result = function()
    except UserError as raised:
        error = raised
    errors = [found for found in gather(error) if found]
    if errors:
        raise error or errors[0]
    return result


def from_main(function: Callable[[], T]) -> T:
    """What the function returns on the main process (anything that can be pickled); the others do not run it.

    Raises:
      UserError: as `on_all`.
    """
    return gather(on_all(lambda: function() if is_main_process() else None))[0]


def arrays_from_main(function: Callable[[], Any]) -> Any:
    """The same for a pytree of numpy arrays, however large: they go the way that gradients do."""
    arrays = on_all(lambda: function() if is_main_process() else None)
    if jax.process_count() == 1:
        return arrays
    like = from_main(lambda: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays))
    if not is_main_process():
        arrays = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    return multihost_utils.broadcast_one_to_all(arrays)


def main_first(function: Callable[[], T]) -> T:
    """The same, run by the main process before the others: what it leaves on a disk that they share is there for them.

    Raises:
      UserError: as `on_all`.
    """
    result = on_all(lambda: function() if is_main_process() else None)
    rest = on_all(lambda: None if is_main_process() else function())
    return result if is_main_process() else rest
