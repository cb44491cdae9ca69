"""Raw datasets as their publishers lay them out, in small, and what becomes of them."""

import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpnet_jax.data import builders
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.records import Example, decode
from cpnet_jax.data.stream import examples
from cpnet_jax.errors import UserError


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def pack(folder: Path, archive: Path, inside: str = "") -> Path:
    """A zip of the folder's files, folder entries included as archivers write them."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, f"{inside}{path.relative_to(folder).as_posix()}")
    return archive


def cut_short(path: Path) -> None:
    """As an interrupted download leaves it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def prepared_examples(dataset: Dataset, data_dir: Path, source: Path) -> dict[str, dict[str, Example]]:
    """Split -> id -> decoded example."""
    decoder = partial(decode, num_classes=len(dataset.classes), ignore_label=dataset.ignore_label)
    builder = builders.prepare(dataset, data_dir, source)
    return {
        split: {example["id"]: example for example in examples(builders.records(builder, split), decode=decoder)}
        for split in builder.info.splits
    }


def assert_refused(dataset: Dataset, data_dir: Path, source: Path, *named: str) -> None:
    """In a sentence that names all of `named`, with nothing written."""
    with pytest.raises(UserError) as caught:
        builders.prepare(dataset, data_dir, source)
    message = str(caught.value)
    assert all(name in message for name in named), message
    assert "\n" not in message and caught.value.exit_status == 2
    assert not list(data_dir.rglob("*.array_record*"))
