"""Helpers for tests of builders: write small raw datasets, prepare them, and check that faulty ones are refused."""

import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpnet_jax.data import builders
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.records import Example, decode_record
from cpnet_jax.data.stream import examples
from cpnet_jax.errors import UserError


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def pack(folder: Path, archive: Path, inside: str = "") -> Path:
    """Zip a folder's files, with entries for folders as archivers write them."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, f"{inside}{path.relative_to(folder).as_posix()}")
    return archive


def truncate(path: Path) -> None:
    """Truncate a file, as an interrupted download does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def prepared_examples(dataset: Dataset, data_dir: Path, source: Path) -> dict[str, dict[str, Example]]:
    """Prepare a dataset and return split -> id -> decoded example."""
    decoder = partial(decode_record, num_classes=len(dataset.classes), ignore_label=dataset.ignore_label)
    builder = builders.prepare(dataset, data_dir, source)
    return {
        split: {example["id"]: example for example in examples(builders.records(builder, split), decode=decoder)}
        for split in builder.info.splits
    }


def assert_refused(dataset: Dataset, data_dir: Path, source: Path | str, *named: str) -> None:
    """Check that preparing raises a one-line UserError that names all of `named`, and writes no records."""
    with pytest.raises(UserError) as caught:
        builders.prepare(dataset, data_dir, source)
    message = str(caught.value)
    assert all(name in message for name in named), message
    assert "\n" not in message and caught.value.exit_status == 2
    assert not list(data_dir.rglob("*.array_record*"))
