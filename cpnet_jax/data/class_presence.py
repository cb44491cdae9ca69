"""Finds which classes each record of a split shows, for class-uniform sampling."""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.progress import track


def cache_file(data_dir: AnyPath, split: str) -> AnyPath:
    """Returns the cache's path beside the prepared records; each split, or slice of one, has its own file."""
    return Path(data_dir) / f"class_presence-{quote(split, safe='')}.npy"


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
    try:
        # A unique temporary name, since processes that share the folder may write at the same time.
        with tempfile.NamedTemporaryFile(dir=cache.parent, prefix=f".{cache.name}.", delete=False) as file:
            np.save(file, class_presence)
        os.replace(file.name, cache)
    except OSError:
        return
