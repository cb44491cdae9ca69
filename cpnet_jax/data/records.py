"""Reads and decodes the records of a prepared dataset."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from cpnet_jax.data import codecs
from cpnet_jax.data.augment import LoadImage
from cpnet_jax.errors import UserError

PREPARE_AGAIN = (
    "delete the dataset's folder in config.data.dir, then run --mode=prepare (if it is in a bucket, first try deleting "
    "only its copy in config.system.data_cache)"
)

# "id", "image" and "label" as bytes, see `data.builders`.
Record = dict[str, Any]
# "image" and "label" as arrays; "id" as str if the example was not augmented.
Example = dict[str, Any]
# (loads the image, label, rng) -> augmented image and label.
Augmentation = Callable[[LoadImage, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
# Makes a training example from a record; the generator is its only source of randomness.
Transform = Callable[[Record, np.random.Generator], Example]


@runtime_checkable
class Records(Protocol):
    """Random-access records, see `data.builders.records`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def read_record(records: Records, index: int) -> Record:
    """Returns records[index]; raises UserError if it cannot be read or its checksum is wrong."""
    try:
        return records[index]
    except Exception as error:  # ArrayRecord's and TFDS's errors share no base class
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"record {index} of the prepared dataset cannot be read ({reason}): {PREPARE_AGAIN}") from error


def decode_record(record: Record, *, num_classes: int, ignore_label: int) -> Example:
    """Decodes a record to "id" str, "image" uint8 (h, w, 3) RGB, "label" uint8 (h, w).

    Label values are checked here because a loss under jit cannot: JAX clamps indices silently.

    Raises:
      UserError: if the record cannot be decoded, the sizes differ or a label value is not a class; names the example.
    """
    label = decode_label(record, num_classes=num_classes, ignore_label=ignore_label)
    image, _ = _load_image(record, label.shape, 1.0)
    return {"id": example_name(record), "image": image, "label": label}


def augment_record(
    record: Record, rng: np.random.Generator, *, num_classes: int, ignore_label: int, augmentation: Augmentation
) -> Example:
    """Decodes and augments a record to "image" and "label"; the image is decoded only as finely as needed.

    Raises:
      UserError: as `decode_record`.
    """
    label = decode_label(record, num_classes=num_classes, ignore_label=ignore_label)
    image, label = augmentation(partial(_load_image, record, label.shape), label, rng)
    return {"image": image, "label": label}


def decode_label(record: Record, *, num_classes: int, ignore_label: int) -> UInt8[np.ndarray, "h w"]:
    """Decodes and checks the record's label; raises UserError as `decode_record` does."""
    try:
        label = codecs.decode_label(record["label"])
    except ValueError as error:
        raise _undecodable(record, "label", error) from error
    if label.ndim != 2:
        raise UserError(
            f"example {example_name(record)} has a label of shape {label.shape}, it must have one channel: "
            f"{PREPARE_AGAIN}"
        )
    unknown = (label >= num_classes) & (label != ignore_label)
    if unknown.any():
        raise UserError(
            f"example {example_name(record)} has label values {np.unique(label[unknown]).tolist()}, but there are "
            f"{num_classes} classes: {PREPARE_AGAIN}"
        )
    return label.astype(np.uint8, copy=False)


def _load_image(record: Record, label_size: tuple[int, int], scale: float) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """Decodes the record's image, see `augment.LoadImage`."""
    try:
        pixels, reduction, size = codecs.decode_image(record["image"], scale)
    except ValueError as error:
        raise _undecodable(record, "image", error) from error
    if size != label_size:
        raise UserError(
            f"example {example_name(record)} has an image of size {size} but a label of size {label_size}: "
            f"{PREPARE_AGAIN}"
        )
    return pixels, reduction


def _undecodable(record: Record, what: str, error: ValueError) -> UserError:
    return UserError(f"the {what} of example {example_name(record)} cannot be decoded ({error}): {PREPARE_AGAIN}")


def example_name(record: Record) -> str:
    """Returns the record's id as text."""
    return record["id"].decode() if isinstance(record["id"], bytes) else str(record["id"])


def fingerprint(records: Records, *, samples: int = 16, images: bool = False) -> str:
    """Hashes the number of records and the ids and labels of `samples` of them, evenly spaced.

    Two copies of the same examples have the same fingerprint, however their images are encoded, unless the encoded
    `images` are hashed as well. An unreadable record is hashed as "unreadable": whether to stop at it is decided by the
    stream.
    """
    digest = hashlib.sha256(str(len(records)).encode())
    for index in sorted({place * (len(records) - 1) // max(samples - 1, 1) for place in range(samples)}):
        try:
            record = read_record(records, index)
            digest.update(example_name(record).encode())
            digest.update(codecs.decode_label(record["label"]).tobytes())
            digest.update(record["image"] if images else b"")
        except (UserError, ValueError):
            digest.update(b"unreadable")
    return digest.hexdigest()[:16]
