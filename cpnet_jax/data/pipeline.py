"""From records to batches, by Grain: decode, augment, batch, always in an order that only the seed decides.

The training stream is one endless sequence of examples: every epoch a new global shuffle, then cut into global batches,
of which each process takes its part: the first process the first examples, so that every example has one and the same
place in the global array, and with it the same dropout, however many processes there are. Batch t is the same whatever
the number of threads, worker processes or processes, so a position in the stream is one number: how many global batches
have been taken.
"""

import hashlib
import sys
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
from cpnet_jax.errors import UserError

Record = dict[str, Any]
Example = dict[str, Any]
Augmentation = Callable[[LoadImage, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
# What makes a training example of a record, its randomness from the generator alone.
Transform = Callable[[Record, np.random.Generator], Example]


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
    """Equal for records of the same examples, however they are encoded: by their number, some ids and labels."""
    digest = hashlib.sha256(str(len(records)).encode())
    for index in sorted({place * (len(records) - 1) // max(samples - 1, 1) for place in range(samples)}):
        record = records[index]
        digest.update(_name(record).encode())
        digest.update(codecs.decode_label(record["label"]).tobytes())
    return digest.hexdigest()[:16]


class TrainStream:
    """An endless iterator over this process's part of the global batches; close it, or use it in a `with`.

    Attributes:
      position: global batches taken so far.
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

        Raises:
          UserError: where the processes do not divide the batch.
        """
        index, count = process
        if batch_size % count:
            raise UserError(f"config.batch_size is {batch_size}: it must be a multiple of the {count} processes")
        order = _shuffled(records, seed) if presence is None else _class_uniform(records, presence, seed)
        # random_map draws by (seed, place in the stream), so it comes before the stream is divided.
        parts = order.random_map(transform).batch(batch_size // count, drop_remainder=True)
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
            stream = stream.mp_prefetch(options, worker_init_fn=_leave_threads_to_grain)
        self._iterator = iter(stream)
        self.position = position

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
        batch = next(self._iterator)
        self.position += 1
        return batch


def _leave_threads_to_grain(*_: int) -> None:
    """OpenCV's own threads would only be in the way: there are as many examples in work as threads."""
    cv2.setNumThreads(0)


def _shuffled(records: Sequence[Record], seed: int) -> grain.MapDataset:
    return grain.MapDataset.source(records).seed(seed).shuffle().repeat()


def _class_uniform(records: Sequence[Record], presence: Bool[np.ndarray, "n classes"], seed: int) -> grain.MapDataset:
    members = [np.flatnonzero(shown) for shown in presence.T if shown.any()]
    draw = partial(_draw_by_class, records=records, members=members, seed=seed)
    return grain.MapDataset.range(sys.maxsize).seed(seed).map(draw)


def _draw_by_class(place: int, *, records: Sequence[Record], members: list[np.ndarray], seed: int) -> Record:
    """Every round has each class once, so the round is how often a class has had its turn."""
    turn, place = divmod(place, len(members))
    label = _permutation(len(members), (seed, 0, turn))[place]
    epoch, place = divmod(turn, len(members[label]))
    return records[int(members[label][_permutation(len(members[label]), (seed, 1 + int(label), epoch))[place]])]


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
    return iter(grain.MapDataset.source(places).map(lambda place: decode(records[place])).to_iter_dataset(options))
