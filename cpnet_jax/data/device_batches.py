"""Prefetches batches to the devices."""

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jax.sharding import Mesh

from cpnet_jax import sharding
from cpnet_jax.data.stream import TrainStream


class DeviceBatches:
    """Iterator over a stream's batches as global arrays; a thread moves some of them to the devices ahead of time.

    Every batch has its own arrays, so a step may donate them while later batches arrive. An error in the stream is
    raised when its batch is requested. Call close(), or use as a context manager.

    Attributes:
      stream: source of the batches.
      position: global batches taken from this iterator; batches that wait are not counted.
      unreadable: record -> how often it was replaced in those batches, see `TrainStream.unreadable`.
    """

    def __init__(self, mesh: Mesh, stream: TrainStream, *, ahead: int = 2) -> None:
        """Starts moving batches.

        Args:
          mesh: mesh to split the batches over.
          stream: this process's part of the batches; close() closes it, too.
          ahead: batches that are ready or being moved, at least 1.
        """
        self._mesh, self.stream = mesh, stream
        self.position = stream.position
        self.unreadable: Counter[int] = Counter()
        # One thread only: several would deliver batches out of order.
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
        """Drops waiting batches; stops the thread and closes the stream."""
        self._mover.shutdown(cancel_futures=True)
        self.stream.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Returns the next batch: a pytree of global arrays, split over the mesh."""
        batch, unreadable = self._ahead.popleft().result()
        self._ahead.append(self._mover.submit(self._move))
        self.position += 1
        self.unreadable.update(unreadable)
        return batch
