"""From records to batches, by Grain: decode, augment, batch, always in an order that only the seed decides.

The training stream is one endless sequence of examples: every epoch a new global shuffle, then cut into global batches,
of which each process takes its part: the first process the first examples, so that every example has one and the same
place in the global array, and with it the same dropout, however many processes there are. Batch t is the same whatever
the number of threads, worker processes or processes, so a position in the stream is one number: how many global batches
have been taken.
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

from cpnet_jax.data.records import Example, Record, Transform, example_name, read
from cpnet_jax.errors import UserError, WorkerDied

# Records drawn in place of an unreadable one, one after the other; data of which so many cannot be read are useless.
REPLACEMENTS = 8
# Of an example: the records drawn for it.
TRIED = "tried"
# How Grain begins to tell of it.
WORKER_DIED = "Worker process was terminated unexpectedly"


class TrainStream:
    """An endless iterator over this process's part of the global batches; close it, or use it in a `with`.

    Attributes:
      position: global batches taken so far.
      unreadable: indices of the records that the last batch does without, once for each time they were drawn.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        transform: Transform,
        batch_size: int,
        seed: int,
        position: int = 0,
        process: tuple[int, int] = (0, 1),
        threads: int = 4,
        workers: int = 0,
        presence: Bool[np.ndarray, "n classes"] | None = None,
        replace_unreadable: bool = False,
    ) -> None:
        """
        Args:
          records: random access, see `builders.records`.
          transform: what happens to each.
          batch_size: global.
          seed: of the shuffles and of each example's augmentation.
          position: global batches to skip: a resumed run passes its step.
          process: (index, count) of this process.
          threads: that decode and augment, in each worker process; they change the speed only.
          workers: processes to do so in, which change the speed only; 0: in this one. They are spawned, so the main
            module must be safe to import.
          presence: which classes each record shows; where given, records are drawn class by class: every class in
            turn, in an order of its own each round, and of each class all its records equally often.
          replace_unreadable: whether another record, drawn by seed and place, takes the place of one for which the
            transform raises UserError; else that ends the stream.

        Raises:
          UserError: where the processes do not divide the batch.
        """
        index, count = process
        if batch_size % count:
            raise UserError(f"config.batch_size is {batch_size}: it must be a multiple of the {count} processes")
        self._records, self._transform, self._batch_size = records, transform, batch_size
        order = _shuffled(len(records), seed) if presence is None else _class_uniform(presence, seed)
        make = partial(_example, records=records, transform=transform, spares=REPLACEMENTS if replace_unreadable else 0)
        # random_map draws by (seed, place in the stream), so it comes before the stream is divided.
        self._examples = order.random_map(make)
        parts = self._examples.batch(batch_size // count, drop_remainder=True)
        batches = parts[index::count]
        # From the position on by slicing: a state of Grain's iterators holds for one number of workers only.
        stream = batches[position:].to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        )
        _leave_threads_to_grain()
        if workers:
            if not flags.FLAGS.is_parsed():  # by absl.app; Grain asks for its own flags' values
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            stream = stream.mp_prefetch(options, worker_init_fn=_start_worker)
        self._iterator = iter(stream)
        # Arrays in memory that is shared with the workers would hold it until Python collects what holds them.
        self._own = np.array if workers else np.asarray
        self.position = position
        self.unreadable: list[int] = []

    def __enter__(self) -> "TrainStream":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads and worker processes."""
        self._iterator.close()

    def __iter__(self) -> Iterator[Example]:
        return self

    def __next__(self) -> Example:
        """Raises:
        UserError: naming a record that cannot be used.
        WorkerDied: where a worker process ended without having been told to.
        """
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            if not str(error).startswith(WORKER_DIED):
                raise
            raise WorkerDied(
                f"a worker process of the input pipeline has died ({str(error).partition('.')[0]}), as when the memory "
                "runs out: start again to go on from the newest checkpoint, with fewer config.system.workers if it recurs"
            ) from error
        self.position += 1
        self.unreadable = [record for tried in batch.pop(TRIED) for record in _indices(tried)[:-1]]
        return {name: self._own(array) for name, array in batch.items()}

    def ids(self, position: int) -> list[str]:
        """Of the examples in that global batch, all processes' parts of it, in order. Makes them again: for mishaps."""
        places = range(position * self._batch_size, (position + 1) * self._batch_size)
        return [example_name(read(self._records, _indices(self._examples[place][TRIED])[-1])) for place in places]

    def why_unreadable(self, record: int) -> str:
        """What is wrong with a record that a batch does without, naming it."""
        try:
            self._transform(read(self._records, record), np.random.default_rng(0))
        except UserError as error:
            return str(error)
        return f"example {example_name(read(self._records, record))} could not be read when it was needed"


def _start_worker(*_: int) -> None:
    _leave_threads_to_grain()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed process cannot tell its workers to stop: they would wait for it for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _leave_threads_to_grain() -> None:
    """OpenCV's own threads would only be in the way: there are as many examples in work as threads."""
    cv2.setNumThreads(0)


def _example(
    index: int, rng: np.random.Generator, *, records: Sequence[Record], transform: Transform, spares: int
) -> Example:
    """The example made of a record, or of another one where that raises UserError, and TRIED: the indices of those
    tried, the one that it was made of last, filled up with -1 to a fixed size."""
    tried = [index]
    while True:
        try:
            example = transform(read(records, tried[-1]), rng)
            return {**example, TRIED: np.array(tried + [-1] * (1 + spares - len(tried)))}
        except UserError:
            if len(tried) > spares:
                raise
            tried.append(int(rng.integers(len(records))))


def _indices(tried: Int[np.ndarray, " n"]) -> list[int]:
    """Without what fills them up."""
    return tried[tried >= 0].tolist()


def _shuffled(count: int, seed: int) -> grain.MapDataset:
    """Places in the stream -> record indices."""
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def _class_uniform(presence: Bool[np.ndarray, "n classes"], seed: int) -> grain.MapDataset:
    """Places in the stream -> record indices."""
    members = [np.flatnonzero(shown) for shown in presence.T if shown.any()]
    return grain.MapDataset.range(sys.maxsize).seed(seed).map(partial(_draw_by_class, members=members, seed=seed))


def _draw_by_class(place: int, *, members: list[np.ndarray], seed: int) -> int:
    """Every round has each class once, so the round is how often a class has had its turn."""
    turn, place = divmod(place, len(members))
    label = _permutation(len(members), (seed, 0, turn))[place]
    epoch, place = divmod(turn, len(members[label]))
    return int(members[label][_permutation(len(members[label]), (seed, 1 + int(label), epoch))[place]])


# Grain's shuffle, which looks up one place at a time, takes milliseconds for sets as small as a rare class.
@lru_cache(maxsize=1024)
def _permutation(count: int, key: tuple[int, ...]) -> Int[np.ndarray, " count"]:
    return np.random.default_rng(key).permutation(count)


def examples(
    records: Sequence[Record],
    *,
    decode: Callable[[Record], Example],
    threads: int = 4,
    places: Sequence[int] | None = None,
) -> Iterator[Example]:
    """The records at these places (every one unless given) once, in order, decoded ahead by threads."""
    places = range(len(records)) if places is None else places
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(
        grain.MapDataset.source(places).map(lambda place: decode(read(records, place))).to_iter_dataset(options)
    )
