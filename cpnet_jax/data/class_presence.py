"""Which classes each record of a split shows: what class-uniform sampling has to know beforehand."""

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Bool

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.records import Record, decode_label, read
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.progress import track


def cache_file(data_dir: Path, split: str) -> Path:
    """Beside the prepared records; another one for every split, slices of splits included."""
    return Path(data_dir) / f"class_presence-{quote(split, safe='')}.npy"


def class_presence(
    records: Sequence[Record], dataset: Dataset, cache: Path, *, on_unreadable: Callable[[str], None] | None = None
) -> Bool[np.ndarray, "n classes"]:
    """[i, k] says whether any pixel of record i's label is of class k.

    Decodes every label once, and keeps the answer in a file that belongs to the prepared records.

    Args:
      records: of one split.
      dataset: theirs.
      cache: read where it is there, else written in one step; where it cannot be written, the next run decodes again.
      on_unreadable: is told of every example whose label cannot be read or has values that do not exist, which then
        counts as one that shows no class; and nothing is kept, so that the next run tells of it, too.

    Raises:
      UserError: naming such an example, where `on_unreadable` is not given.
    """
    if cache.is_file():
        return np.load(cache)
    show = partial(_classes, records, num_classes=len(dataset.classes), ignore_label=dataset.ignore_label)
    nothing, whole = np.zeros(len(dataset.classes), bool), True
    found = []
    with ThreadPoolExecutor() as pool:
        rows = pool.map(show, range(len(records)))
        for row in track(rows, "Looking for the classes of each image", total=len(records)):
            if isinstance(row, UserError):
                if on_unreadable is None:
                    raise row
                on_unreadable(str(row))
                row, whole = nothing, False
            found.append(row)
    presence = np.stack(found)
    if whole:
        _store(cache, presence)
    return presence


def _classes(
    records: Sequence[Record], index: int, *, num_classes: int, ignore_label: int
) -> Bool[np.ndarray, " classes"] | UserError:
    try:
        label = decode_label(read(records, index), num_classes=num_classes, ignore_label=ignore_label)
    except UserError as error:
        return error
    return np.bincount(label.ravel(), minlength=num_classes)[:num_classes] > 0


def _store(cache: Path, presence: Bool[np.ndarray, "n classes"]) -> None:
    try:
        # A name of its own: processes that share the folder may write at the same time.
        with tempfile.NamedTemporaryFile(dir=cache.parent, prefix=f".{cache.name}.", delete=False) as file:
            np.save(file, presence)
        os.replace(file.name, cache)
    except OSError:
        return
