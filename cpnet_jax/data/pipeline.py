"""From records to batches, by Grain: decode, augment, batch, always in an order that only the seed decides.

The training stream is one endless sequence of examples: every epoch a new global shuffle, then cut into global batches,
of which each process takes its part: the first process the first examples, so that every example has one and the same
place in the global array, and with it the same dropout, however many processes there are. Batch t is the same whatever
the number of threads, worker processes or processes, so a position in the stream is one number: how many global batches
have been taken.
"""

import hashlib
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
from jaxtyping import Bool, Int, UInt8

from cpnet_jax.data import codecs
from cpnet_jax.data.augment import LoadImage
from cpnet_jax.errors import UserError, WorkerDied

Record = dict[str, Any]
Example = dict[str, Any]
Augmentation = Callable[[LoadImage, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
# What makes a training example of a record, its randomness from the generator alone.
Transform = Callable[[Record, np.random.Generator], Example]

# Records drawn in place of an unreadable one, one after the other; data of which so many cannot be read are useless.
REPLACEMENTS = 8
# Of an example: the records drawn for it.
TRIED = "tried"
# How Grain begins to tell of it.
WORKER_DIED = "Worker process was terminated unexpectedly"


def read(records: Sequence[Record], index: int) -> Record:
    """records[index]; UserError where its bytes are not those that were written, or cannot be had."""
    try:
        return records[index]
    except Exception as error:  # ArrayRecord's and TFDS's errors have no type in common
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"record {index} of the prepared dataset cannot be read ({reason}): delete the dataset in "
            "config.data.dir to prepare it again"
        ) from error


def decode(record: Record, *, num_classes: int, ignore_label: int) -> Example:
    """Record of bytes -> "id" str, "image" uint8 (h, w, 3) RGB, "label" uint8 (h, w).

    Raises:
      UserError: naming the example, where it cannot be decoded, the sizes differ or a label value does not exist.
        A loss under jit could not tell: JAX clamps indices silently.
    """
    label = decode_label(record, num_classes=num_classes, ignore_label=ignore_label)
    image, _ = _load_image(record, label.shape, 1.0)
    return {"id": _name(record), "image": image, "label": label}


def augmented(
    record: Record, rng: np.random.Generator, *, num_classes: int, ignore_label: int, augmentation: Augmentation
) -> Example:
    """Record of bytes -> "image" and "label" as the augmentation makes them; it decodes no more than it shows.

    Raises:
      UserError: as `decode`.
    """
    label = decode_label(record, num_classes=num_classes, ignore_label=ignore_label)
    image, label = augmentation(partial(_load_image, record, label.shape), label, rng)
    return {"image": image, "label": label}


def decode_label(record: Record, *, num_classes: int, ignore_label: int) -> UInt8[np.ndarray, "h w"]:
    """The record's label; UserError naming the example as `decode`."""
    try:
        label = codecs.decode_label(record["label"])
    except ValueError as error:
        raise _undecodable(record, "label", error) from error
    if label.ndim != 2:
        raise UserError(f"example {_name(record)} has a label of {label.shape}, not of one channel: prepare again")
    unknown = (label >= num_classes) & (label != ignore_label)
    if unknown.any():
        raise UserError(
            f"example {_name(record)} has label values {np.unique(label[unknown]).tolist()} but there are "
            f"{num_classes} classes: prepare again"
        )
    return label


def _load_image(record: Record, label_size: tuple[int, int], scale: float) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """See `augment.LoadImage`."""
    try:
        pixels, reduction, size = codecs.decode_image(record["image"], scale)
    except ValueError as error:
        raise _undecodable(record, "image", error) from error
    if size != label_size:
        raise UserError(f"example {_name(record)} has an image of {size} and a label of {label_size}: prepare again")
    return pixels, reduction


def _undecodable(record: Record, what: str, error: ValueError) -> UserError:
    return UserError(f"the {what} of example {_name(record)} cannot be decoded ({error}): prepare the dataset again")


def _name(record: Record) -> str:
    return record["id"].decode() if isinstance(record["id"], bytes) else str(record["id"])


def fingerprint(records: Sequence[Record], *, samples: int = 16) -> str:
    """Equal for records of the same examples, however they are encoded: by their number, some ids and labels.

    One that cannot be read counts as that, and is left to the stream to stop at or to skip.
    """
    digest = hashlib.sha256(str(len(records)).encode())
    for index in sorted({place * (len(records) - 1) // max(samples - 1, 1) for place in range(samples)}):
        try:
            record = read(records, index)
            digest.update(_name(record).encode())
            digest.update(codecs.decode_label(record["label"]).tobytes())
        except (UserError, ValueError):
            digest.update(b"unreadable")
    return digest.hexdigest()[:16]


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
                "runs out: start again to go on from the newest checkpoint, with fewer config.data.workers if it recurs"
            ) from error
        self.position += 1
        self.unreadable = [record for tried in batch.pop(TRIED) for record in _indices(tried)[:-1]]
        return {name: self._own(array) for name, array in batch.items()}

    def ids(self, position: int) -> list[str]:
        """Of the examples in that global batch, all processes' parts of it, in order. Makes them again: for mishaps."""
        places = range(position * self._batch_size, (position + 1) * self._batch_size)
        return [_name(read(self._records, _indices(self._examples[place][TRIED])[-1])) for place in places]

    def why_unreadable(self, record: int) -> str:
        """What is wrong with a record that a batch does without, naming it."""
        try:
            self._transform(read(self._records, record), np.random.default_rng(0))
        except UserError as error:
            return str(error)
        return f"example {_name(read(self._records, record))} could not be read when it was needed"


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
