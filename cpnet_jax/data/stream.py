"""Input pipeline on Grain: shuffles, decodes, augments and batches records in an order set by the seed alone.

The training stream is one endless sequence of examples, globally shuffled again in every epoch and cut into global
batches. Process p of P takes the p-th contiguous part of each batch. An example thus has the same place in the global
array, and the same dropout, for any number of processes. Batch t does not depend on the number of threads, worker
processes or processes, so a position in the stream is one number: the count of global batches taken.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Int

from cpnet_jax.data.records import Example, Record, Records, Transform, example_name, read_record
from cpnet_jax.errors import UserError, WorkerDied

# Replacements tried for an unreadable record; if all are unreadable, the dataset is unusable and the stream raises.
REPLACEMENTS = 8
# Key of an example that lists the indices of the records tried for it.
TRIED = "tried"
# First words of the error that Grain raises when a worker process dies.
WORKER_DIED = "Worker process was terminated unexpectedly"


class TrainStream:
    """Endless iterator over this process's part of the global batches; call close(), or use as a context manager.

    Attributes:
      position: global batches taken so far.
      unreadable: indices of the unreadable records that were replaced in the last batch, with repetitions.
    """

    def __init__(
        self,
        records: Records,
        *,
        transform: Transform,
        batch_size: int,
        seed: int,
        position: int = 0,
        process: tuple[int, int] = (0, 1),
        threads: int = 4,
        workers: int = 0,
        class_presence: Bool[np.ndarray, "n classes"] | None = None,
        replace_unreadable: bool = False,
    ) -> None:
        """Opens the stream at a position.

        Args:
          records: random-access records, see `builders.records`.
          transform: makes an example from a record.
          batch_size: global batch size.
          seed: seed of the shuffles and of each example's augmentation.
          position: global batches to skip; a resumed run passes its step.
          process: (index, count) of this process.
          threads: decoding threads in each worker process; they affect speed only.
          workers: worker processes, which affect speed only; 0 decodes in this process. They are spawned, so the main
            module must be safe to import.
          class_presence: [i, k] is whether record i shows class k. If given, every round draws one record for each
            class, in random order, and the records of a class are drawn equally often.
          replace_unreadable: whether to replace a record for which reading or the transform raises UserError by
            another one, drawn by seed and place in the stream. If False, the stream raises that error.

        Raises:
          UserError: if the batch size is not a multiple of the number of processes.
        """
        index, count = process
        if batch_size % count:
            raise UserError(f"config.batch_size is {batch_size}: it must be a multiple of the {count} processes")
        self._records, self._transform, self._batch_size = records, transform, batch_size
        order = _shuffled(len(records), seed) if class_presence is None else _class_uniform(class_presence, seed)
        make = partial(_example, records=records, transform=transform, spares=REPLACEMENTS if replace_unreadable else 0)
        # random_map draws by (seed, place in the stream), so it comes before the stream is split over processes.
        self._examples: Any = order.random_map(make)
        parts = self._examples.batch(batch_size // count, drop_remainder=True)
        # Slicing, because the state of Grain's iterators is tied to the number of workers.
        self._iterator = _iterate(parts[index::count][position:], threads, workers)
        # A view would keep memory shared with the workers alive until Python's garbage collector runs.
        self._own = np.array if workers else np.asarray
        self.position = position
        self.unreadable: list[int] = []

    def __enter__(self) -> "TrainStream":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and worker processes."""
        self._iterator.close()

    def __iter__(self) -> Iterator[Example]:
        return self

    def __next__(self) -> Example:
        """Returns the next batch: this process's examples, stacked.

        Raises:
          UserError: if a record is unreadable and not replaced; names the record.
          WorkerDied: if a worker process died.
        """
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            if not str(error).startswith(WORKER_DIED):
                raise
            raise WorkerDied(
                f"a worker process of the input pipeline has died ({str(error).partition('.')[0]}), most likely out of "
                "memory: run the same command again to resume from the newest checkpoint; if it recurs, lower "
                "config.system.workers"
            ) from error
        self.position += 1
        self.unreadable = [record for tried in batch.pop(TRIED) for record in _indices(tried)[:-1]]
        return {name: self._own(array) for name, array in batch.items()}

    def ids(self, position: int) -> list[str]:
        """Returns the ids of all examples in a global batch, in order.

        Slow, because it decodes the examples again; meant for error reports.
        """
        places = range(position * self._batch_size, (position + 1) * self._batch_size)
        used = [_indices(self._examples[place][TRIED])[-1] for place in places]
        return [example_name(read_record(self._records, index)) for index in used]

    def why_unreadable(self, record: int) -> str:
        """Returns why a record was replaced, naming it."""
        try:
            self._transform(read_record(self._records, record), np.random.default_rng(0))
        except UserError as error:
            return str(error)
        return f"example {example_name(read_record(self._records, record))} could not be read when it was needed"


def _iterate(batches: grain.MapDataset, threads: int, workers: int) -> grain.DatasetIterator:
    """Iterates with decoding threads, in worker processes if `workers` is not 0."""
    stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    _disable_opencv_threads()
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its own flags, which fails unless absl.app has parsed them
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(options, worker_init_fn=_start_worker)
    return iter(stream)


def _start_worker(*_: int) -> None:
    _disable_opencv_threads()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exits when the parent process ends: a killed parent cannot stop its workers, which would wait forever."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _disable_opencv_threads() -> None:
    """Turn off OpenCV's threads: Grain already runs one example per thread."""
    cv2.setNumThreads(0)


def _example(index: int, rng: np.random.Generator, *, records: Records, transform: Transform, spares: int) -> Example:
    """Makes an example from a record, or from a random replacement while that raises UserError.

    Adds TRIED: the indices of the records tried, the used one last, padded with -1 to length 1 + spares.
    """
    tried = [index]
    while True:
        try:
            example = transform(read_record(records, tried[-1]), rng)
            return {**example, TRIED: np.array(tried + [-1] * (1 + spares - len(tried)))}
        except UserError:
            if len(tried) > spares:
                raise
            tried.append(int(rng.integers(len(records))))


def _indices(tried: Int[np.ndarray, " n"]) -> list[int]:
    """Removes the padding of TRIED."""
    return tried[tried >= 0].tolist()


def _shuffled(count: int, seed: int) -> grain.MapDataset:
    """Maps places in the stream to record indices, shuffled in every epoch."""
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def _class_uniform(class_presence: Bool[np.ndarray, "n classes"], seed: int) -> grain.MapDataset:
    """Maps places in the stream to record indices, drawn uniformly over classes."""
    members = [np.flatnonzero(shown) for shown in class_presence.T if shown.any()]
    return grain.MapDataset.range(sys.maxsize).seed(seed).map(partial(_draw_by_class, members=members, seed=seed))


def _draw_by_class(place: int, *, members: list[np.ndarray], seed: int) -> int:
    """Returns the record index at a place; every round draws each class once, so round r is a class's r-th draw."""
    round_index, place = divmod(place, len(members))
    label = _permutation(len(members), (seed, 0, round_index))[place]
    epoch, place = divmod(round_index, len(members[label]))
    return int(members[label][_permutation(len(members[label]), (seed, 1 + int(label), epoch))[place]])


# Not Grain's shuffle: it looks up one place at a time and takes milliseconds for sets as small as a rare class.
@lru_cache(maxsize=1024)
def _permutation(count: int, key: tuple[int, ...]) -> Int[np.ndarray, " count"]:
    return np.random.default_rng(key).permutation(count)


def examples(
    records: Records,
    *,
    decode: Callable[[Record], Example],
    threads: int = 4,
    places: Sequence[int] | None = None,
) -> Iterator[Example]:
    """Yields the decoded records at `places` (by default all) once, in order; threads decode ahead."""
    places = range(len(records)) if places is None else places
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(
        grain.MapDataset.source(places).map(lambda place: decode(read_record(records, place))).to_iter_dataset(options)
    )
