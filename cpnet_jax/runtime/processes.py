"""Collectives between the processes of a run: gathering values, sharing errors, ordering work."""

import pickle
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from cpnet_jax.errors import UserError, reason

# Messages of JAX's collectives and runtime, which have no exception type for this.
LOST_PEER = re.compile(r"Gloo [\w -]+ failed|UNAVAILABLE|[Hh]eartbeat|coordination service")


T = TypeVar("T")


def process() -> tuple[int, int]:
    """Index of this process, and the number of processes."""
    return jax.process_index(), jax.process_count()


def is_main_process() -> bool:
    """Whether this is process 0, which writes the results."""
    return jax.process_index() == 0


def is_lost_peer(error: BaseException) -> bool:
    """Whether the error came from a collective with a process that died."""
    # The number last: JAX starts the devices to count the processes, and waits for all of them.
    return bool(LOST_PEER.search(str(error))) and jax.process_count() > 1


def my_places(count: int) -> range:
    """This process's share of the numbers below `count`: every n-th, for n processes."""
    return range(jax.process_index(), count, jax.process_count())


def gather(value: Any) -> list[Any]:
    """The values (anything that can be pickled) of all processes in process order, on every process."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(data.size))
    parts = multihost_utils.process_allgather(np.pad(data, (0, sizes.max() - data.size)))
    return [pickle.loads(part[:size]) for part, size in zip(parts, sizes, strict=True)]


def on_all(function: Callable[[], T]) -> T:
    """Calls the function; returns its result after it has returned on every process.

    Raises:
      UserError: on every process if one raised any error, so that none waits for another forever. A process that raised
        an error raises that one.
    """
    result: Any = None
    error = None
    try:
        result = function()
    except Exception as raised:
        error = raised
    errors = [found for found in gather(_for_others(error)) if found]
    if errors:
        raise error or errors[0]
    return result


def _for_others(error: Exception | None) -> UserError | None:
    """What the other processes raise. Not the error itself, since only the process that raised it has its traceback."""
    if error is None or isinstance(error, UserError):
        return error
    index, count = process()
    return UserError(
        f"process {index} of {count} failed ({reason(error)}): see what it printed, then run the same command on every "
        "host again"
    )


def from_main(function: Callable[[], T]) -> T:
    """Calls the function on process 0; returns its result (anything that can be pickled) on every process.

    Raises:
      UserError: as `on_all`.
    """
    return gather(on_all(lambda: function() if is_main_process() else None))[0]


def arrays_from_main(function: Callable[[], Any]) -> Any:
    """Like `from_main`, for a pytree of large numpy arrays: they travel as gradients do."""
    arrays = on_all(lambda: function() if is_main_process() else None)
    if jax.process_count() == 1:
        return arrays
    like = from_main(lambda: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays))
    if not is_main_process():
        arrays = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    return multihost_utils.broadcast_one_to_all(arrays)


def main_first(function: Callable[[], T]) -> T:
    """Calls the function on process 0 first, then on the others, which can use the files it wrote.

    Raises:
      UserError: as `on_all`.
    """
    result: Any = on_all(lambda: function() if is_main_process() else None)
    rest: Any = on_all(lambda: None if is_main_process() else function())
    return result if is_main_process() else rest
