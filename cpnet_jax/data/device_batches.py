"""Batches on the devices before the step asks for them."""

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jax.sharding import Mesh

from cpnet_jax import sharding
from cpnet_jax.data.stream import TrainStream


class DeviceBatches:
    """A stream's batches in its order, moved to the devices by a thread that keeps some of them ready.

    Each is an array of its own, so a step may take it (or have it donated) while the next ones arrive. What goes wrong
    in the stream is raised when its batch is asked for. Close it, or use it in a `with`.

    Attributes:
      stream: where they come from.
      position: global batches taken from here; those that only wait are not counted.
      unreadable: record -> how often those batches do without it, see `TrainStream.unreadable`.
    """

    def __init__(self, mesh: Mesh, stream: TrainStream, *, ahead: int = 2) -> None:
        """Args:
        mesh: to divide the batches over.
        stream: of this process's parts; it belongs to this object from here on.
        ahead: batches ready or on their way; at least 1.
        """
        self._mesh, self.stream = mesh, stream
        self.position = stream.position
        self.unreadable: Counter[int] = Counter()
        # One thread: two would take batches in turns and hand them over in any order.
        self._mover = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device_batches")
        self._ahead = deque(self._mover.submit(self._move) for _ in range(ahead))

    def _move(self) -> tuple[Any, list[int]]:
        batch = next(self.stream)
        return sharding.to_devices(self._mesh, batch), self.stream.unreadable

    def __enter__(self) -> "DeviceBatches":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Drops what waits; ends the thread and the stream."""
        self._mover.shutdown(cancel_futures=True)
        self.stream.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """A pytree of global arrays, split over the mesh."""
        batch, unreadable = self._ahead.popleft().result()
        self._ahead.append(self._mover.submit(self._move))
        self.position += 1
        self.unreadable.update(unreadable)
        return batch
