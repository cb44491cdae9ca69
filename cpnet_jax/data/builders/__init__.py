"""Prepared datasets: ArrayRecord files written once by TFDS builders, read without TensorFlow.

Every record is the same whatever the dataset: "id" (text), "image" (the bytes of a JPEG or PNG) and "label" (a
one-channel PNG of training ids: class indices, or 255 where nobody should look).
"""

import contextlib
import errno
import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tensorflow_datasets as tfds

from cpnet_jax.data.builders import object_store
from cpnet_jax.data.builders.ade20k import Ade20kBuilder
from cpnet_jax.data.builders.base import SegmentationBuilder
from cpnet_jax.data.builders.camvid import CamvidBuilder
from cpnet_jax.data.builders.cityscapes import CityscapesBuilder
from cpnet_jax.data.builders.folder import FolderBuilder, describe_folder
from cpnet_jax.data.builders.pascal_context import PascalContext60Builder, PascalContextBuilder
from cpnet_jax.data.builders.scenes import ScenesBuilder
from cpnet_jax.data.builders.voc import VocBuilder
from cpnet_jax.data.catalog import Dataset, FolderDataset
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, progress

__all__ = ["BUILDERS", "FolderBuilder", "SegmentationBuilder", "describe_folder", "make_builder", "prepare", "records"]

# Of the datasets in the catalog; a FolderDataset has its own, which needs the descriptor.
BUILDERS: dict[str, type[SegmentationBuilder]] = {
    builder.name: builder
    for builder in (
        Ade20kBuilder,
        CamvidBuilder,
        CityscapesBuilder,
        PascalContextBuilder,
        PascalContext60Builder,
        ScenesBuilder,
        VocBuilder,
    )
}


def make_builder(dataset: Dataset, data_dir: str | Path, source: str | Path = "") -> SegmentationBuilder:
    """The builder of a dataset; nothing is read or written yet. See `prepare` for the arguments."""
    source = Path(source).expanduser().resolve() if source and dataset.source_help else None
    make = partial(FolderBuilder, dataset) if isinstance(dataset, FolderDataset) else BUILDERS[dataset.name]
    return make(data_dir=Path(data_dir).expanduser(), source=source)


def prepare(
    dataset: Dataset, data_dir: str | Path, source: str | Path = "", *, cache: str | Path = ""
) -> SegmentationBuilder:
    """The dataset's records under `data_dir`, written now if they are not there yet.

    TFDS writes into a temporary folder and renames it when all is done, so an interrupted preparation leaves nothing
    that a later run would take for whole.

    Args:
      dataset: its descriptor.
      data_dir: where prepared datasets live.
      source: folder or zip archive of the raw files, for datasets that need one.
      cache: where this host keeps its copy of records whose `data_dir` is in an object store.

    Raises:
      UserError: where the source is missing or faulty, or the records were made from another source.
    """
    if files.is_remote(data_dir):
        return _prepare_in_store(dataset, files.as_path(data_dir), source, files.as_path(cache))
    make = partial(make_builder, dataset, data_dir, source)
    builder = make()
    if not builder.is_prepared():
        builder.examples()  # looks for the files, and reads none of them yet
        files.make_folder(Path(data_dir).expanduser(), "config.data.dir")
        print(f"Preparing {dataset.name} in {builder.data_dir}", flush=True)
        _write(builder, make)
        # Where another process was quicker, its records count.
        builder = make()
        _compare_sizes(builder)
    made_from, wanted = builder.info.metadata["source"], builder.source_path
    if wanted is not None and made_from != str(wanted):
        raise UserError(
            f"{builder.data_dir} was prepared from {made_from}, not from {wanted}: delete it to prepare again, "
            "or name another config.data.dir"
        )
    return builder


def _prepare_in_store(dataset: Dataset, data_dir: Path, source: str | Path, cache: Path) -> SegmentationBuilder:
    """As `prepare`: the records of the store, copied to this host, or those made here, copied to the store."""
    folder = cache / quote(str(data_dir), safe="")
    local = Path(make_builder(dataset, folder, source).data_dir)
    remote = data_dir / local.relative_to(folder).as_posix()
    if object_store.is_whole(remote):
        object_store.download(remote, local)
        return prepare(dataset, folder, source)
    files.make_folder(data_dir, "config.data.dir")
    builder = prepare(dataset, folder, source)
    object_store.upload(local, remote)
    return builder


def _write(builder: SegmentationBuilder, make: Callable[[], SegmentationBuilder]) -> None:
    (tfds.enable_progress_bar if progress.on_terminal() else tfds.disable_progress_bar)()
    try:
        # TFDS announces sizes that it does not know.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="array_record")
    except FileExistsError:
        # The last step, the rename, found that another process had prepared the same records meanwhile.
        if not make().is_prepared():
            raise
    except (OSError, RuntimeError) as error:
        if not _disk_is_full(error):
            raise
        raise UserError(
            f"the disk of {builder.data_dir} is full: make room, or name another config.data.dir; nothing of what was "
            "written is kept"
        ) from error


def _disk_is_full(error: Exception) -> bool:
    """The record writer puts the system's reason into words of its own."""
    reasons = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
    return any(reason in str(error) for reason in reasons)


def _compare_sizes(builder: SegmentationBuilder) -> None:
    for split, expected in builder.DATASET.splits.items():
        found = builder.info.splits[split].num_examples if split in builder.info.splits else "no"
        if found != expected:
            print(f"Note: split {split} of {builder.name} has {found} examples here, {expected} as published")


def records(builder: SegmentationBuilder, split: str) -> Sequence[dict[str, Any]]:
    """A random-access, picklable sequence of undecoded records.

    Raises:
      UserError: where the prepared dataset has no such split.
    """
    if split not in builder.info.splits:
        raise UserError(
            f"{builder.name} in {builder.data_dir} has no split {split!r}: take one of {sorted(builder.info.splits)}"
        )
    raw = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split, decoders=raw)
