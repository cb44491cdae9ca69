"""Finds which classes the records of a split show: each one, for class-uniform sampling, or any at all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
from jaxtyping import Bool

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.large_images import work_on
from cpnet_jax.data.records import Records, decode_label, read_record
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.progress import track


def cache_file(data_dir: AnyPath, split: str) -> AnyPath:
    """Returns the cache's path beside the prepared records; each split, or slice of one, has its own file."""
    return Path(data_dir) / f"class_presence-{quote(split, safe='')}.npy"


def check_labelled(records: Records, dataset: Dataset, split: str) -> str:
    """Checks that the labels of a split show classes.

    Decodes labels until they show two classes. Usually the first one does.

    Args:
      records: the records of the split.
      dataset: their dataset.
      split: its name, for messages.

    Returns:
      a note if they all show the same class only, else "".

    Raises:
      UserError: if every pixel of every label is ignored. Unreadable records are left to the stream.
    """
    shown, all_readable = set(), True
    for index in range(len(records)):
        row = _classes_of(records, index, num_classes=len(dataset.classes), ignore_label=dataset.ignore_label)
        if isinstance(row, UserError):
            all_readable = False
        else:
            shown |= set(np.flatnonzero(row).tolist())
        if len(shown) > 1:
            return ""
    if not all_readable:
        return ""
    if not shown:
        raise UserError(
            f"every pixel of split {split!r} of {dataset.name} is ignored ({len(records)} label(s)): correct the "
            "labels or the class file, or name another split in config.data.train_split or eval_split"
        )
    [only] = shown
    return f"Note: split {split!r} of {dataset.name} shows no other class than {dataset.classes[only]!r}"


def find_class_presence(
    records: Records, dataset: Dataset, cache: AnyPath, *, on_unreadable: Callable[[str], None] | None = None
) -> Bool[np.ndarray, "n classes"]:
    """Returns an array whose entry [i, k] is whether record i's label has a pixel of class k.

    Decodes every label once and caches the result.

    Args:
      records: the records of one split.
      dataset: their dataset.
      cache: file to read if it exists, else to write. If it cannot be written, the next run decodes again.
      on_unreadable: called with a message for each example whose label is unreadable or holds unknown values. Such
        an example counts as showing no class, and nothing is cached, so that the next run reports it again.

    Raises:
      UserError: at the first such example if `on_unreadable` is None.
    """
    cached = _load(cache, (len(records), len(dataset.classes)))
    if cached is not None:
        return cached
    classes_of = partial(_classes_of, records, num_classes=len(dataset.classes), ignore_label=dataset.ignore_label)
    nothing, all_readable = np.zeros(len(dataset.classes), bool), True
    found = []
    with ThreadPoolExecutor() as pool:
        rows = pool.map(classes_of, range(len(records)))
        for row in track(rows, "Finding the classes of each image", total=len(records)):
            if isinstance(row, UserError):
                if on_unreadable is None:
                    raise row
                on_unreadable(str(row))
                row, all_readable = nothing, False
            found.append(row)
    class_presence = np.stack(found)
    if all_readable:
        _store(cache, class_presence)
    return class_presence


def _classes_of(
    records: Records, index: int, *, num_classes: int, ignore_label: int
) -> Bool[np.ndarray, " classes"] | UserError:
    try:
        record = read_record(records, index)
        with work_on(record["label"]):
            label = decode_label(record, num_classes=num_classes, ignore_label=ignore_label)
            counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
            return counts[:num_classes] > 0
    except UserError as error:
        return error


def _load(cache: AnyPath, shape: tuple[int, int]) -> Bool[np.ndarray, "n classes"] | None:
    """Reads the cache, or returns None if it is missing, damaged or of other records; it is then written again."""
    try:
        found = np.load(cache, mmap_mode="r")  # a header that announces too much is refused before memory is taken
        return np.array(found) if found.shape == shape and found.dtype == bool else None
    except (OSError, ValueError, EOFError, AttributeError):  # AttributeError: an archive of arrays
        return None


def _store(cache: AnyPath, class_presence: Bool[np.ndarray, "n classes"]) -> None:
    with suppress(OSError), files.replacing(cache) as temporary, temporary.open("wb") as file:
        np.save(file, class_presence)
