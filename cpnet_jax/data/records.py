"""Records of prepared data: read, decoded, recognised."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cpnet_jax.data import codecs
from cpnet_jax.data.augment import LoadImage
from cpnet_jax.errors import UserError

Record = dict[str, Any]


Example = dict[str, Any]


Augmentation = Callable[[LoadImage, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
# What makes a training example of a record, its randomness from the generator alone.
Transform = Callable[[Record, np.random.Generator], Example]


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
    return {"id": example_name(record), "image": image, "label": label}


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
        raise UserError(
            f"example {example_name(record)} has a label of {label.shape}, not of one channel: prepare again"
        )
    unknown = (label >= num_classes) & (label != ignore_label)
    if unknown.any():
        raise UserError(
            f"example {example_name(record)} has label values {np.unique(label[unknown]).tolist()} but there are "
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
        raise UserError(
            f"example {example_name(record)} has an image of {size} and a label of {label_size}: prepare again"
        )
    return pixels, reduction


def _undecodable(record: Record, what: str, error: ValueError) -> UserError:
    return UserError(
        f"the {what} of example {example_name(record)} cannot be decoded ({error}): prepare the dataset again"
    )


def example_name(record: Record) -> str:
    return record["id"].decode() if isinstance(record["id"], bytes) else str(record["id"])


def fingerprint(records: Sequence[Record], *, samples: int = 16) -> str:
    """Equal for records of the same examples, however they are encoded: by their number, some ids and labels.

    One that cannot be read counts as that, and is left to the stream to stop at or to skip.
    """
    digest = hashlib.sha256(str(len(records)).encode())
    for index in sorted({place * (len(records) - 1) // max(samples - 1, 1) for place in range(samples)}):
        try:
            record = read(records, index)
            digest.update(example_name(record).encode())
            digest.update(codecs.decode_label(record["label"]).tobytes())
        except (UserError, ValueError):
            digest.update(b"unreadable")
    return digest.hexdigest()[:16]
