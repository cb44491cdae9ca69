"""From records to batches, by Grain: decode, augment, batch, always in an order that only the seed decides.

The training stream is one endless sequence of examples: every epoch a new global shuffle, then strided over
processes. Batch t is the same whatever the number of threads or processes, so a position in the stream is one number:
how many global batches have been taken.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from cpnet_jax.errors import UserError

Record = dict[str, Any]
Example = dict[str, Any]
# (image, label, rng) -> (image, label)
Augmentation = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def decode(record: Record, *, num_classes: int, ignore_label: int) -> Example:
    """Record of bytes -> "id" str, "image" uint8 (h, w, 3) RGB, "label" uint8 (h, w).

    Raises:
      UserError: naming the example, where it cannot be decoded, the sizes differ or a label value does not exist.
        A loss under jit could not tell: JAX clamps indices silently.
    """
    name = record["id"].decode() if isinstance(record["id"], bytes) else str(record["id"])
    # The label was made for the pixels as stored, so a camera's orientation flag must not turn the image.
    image = _imdecode(record["image"], cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    label = _imdecode(record["label"], cv2.IMREAD_UNCHANGED)
    if image is None or label is None:
        raise UserError(f"example {name} cannot be decoded: prepare the dataset again")
    if image.shape[:2] != label.shape:
        raise UserError(f"example {name} has an image of {image.shape[:2]} and a label of {label.shape}: prepare again")
    if ((label >= num_classes) & (label != ignore_label)).any():
        unknown = np.unique(label[(label >= num_classes) & (label != ignore_label)]).tolist()
        raise UserError(f"example {name} has label values {unknown} but there are {num_classes} classes: prepare again")
    return {"id": name, "image": image, "label": label}


def _imdecode(data: bytes, flags: int) -> UInt8[np.ndarray, "..."] | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None  # OpenCV raises on no bytes


class TrainStream:
    """An endless iterator over this process's part of the global batches.

    Attributes:
      position: global batches taken so far.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        decode: Callable[[Record], Example],
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        position: int = 0,
        process: tuple[int, int] = (0, 1),
        threads: int = 4,
    ) -> None:
        """
        Args:
          records: random access, see `builders.records`.
          decode, augmentation: what happens to each.
          batch_size: global.
          seed: of the shuffles and of each example's augmentation.
          position: global batches to skip: a resumed run passes its step.
          process: (index, count) of this process.
          threads: that decode and augment; they change the speed only.

        Raises:
          UserError: where the processes do not divide the batch.
        """
        index, count = process
        if batch_size % count:
            raise UserError(f"config.batch_size is {batch_size}: it must be a multiple of the {count} processes")
        # random_map draws by (seed, place in the stream), so it comes before the stream is divided.
        stream = (
            grain.MapDataset.source(records)
            .seed(seed)
            .shuffle()
            .repeat()
            .random_map(partial(_augmented, decode=decode, augmentation=augmentation))[index::count]
            .batch(batch_size // count, drop_remainder=True)
        )
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        self._iterator = iter(stream.to_iter_dataset(options))
        self._iterator.set_state({"next_index": position})
        self.position = position

    def __iter__(self) -> Iterator[Example]:
        return self

    def __next__(self) -> Example:
        batch = next(self._iterator)
        self.position += 1
        return batch


def _augmented(
    record: Record, rng: np.random.Generator, *, decode: Callable[[Record], Example], augmentation: Augmentation
) -> Example:
    example = decode(record)
    image, label = augmentation(example["image"], example["label"], rng)
    return {"image": image, "label": label}


def examples(records: Sequence[Record], *, decode: Callable[[Record], Example], threads: int = 4) -> Iterator[Example]:
    """Every record once, in order, decoded ahead by threads."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(grain.MapDataset.source(records).map(decode).to_iter_dataset(options))
