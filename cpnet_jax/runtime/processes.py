"""What the processes of a run tell each other: values gathered, errors shared, one before the others."""

import pickle
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from cpnet_jax.errors import UserError

# As the collectives and the runtime put it; they have no exception of their own.
LOST_PEER = re.compile(r"Gloo \w+ failed|UNAVAILABLE|[Hh]eartbeat|coordination service")


T = TypeVar("T")


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
