"""Prepares datasets: TFDS builders write ArrayRecord files once, which are then read without TensorFlow.

Every dataset has the same records: "id" (text), "image" (the bytes of a JPEG or PNG) and "label" (the bytes of a
one-channel PNG of training ids: class indices, or 255 for ignored pixels).
"""

import contextlib
import errno
import io
import os
from collections.abc import Callable
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
from cpnet_jax.data.records import Records
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, progress
from cpnet_jax.runtime.files import AnyPath

__all__ = ["BUILDERS", "FolderBuilder", "SegmentationBuilder", "describe_folder", "make_builder", "prepare", "records"]

# Builders of the datasets in the catalog; FolderBuilder is missing, since it needs a descriptor.
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


def make_builder(dataset: Dataset, data_dir: str | AnyPath, source: str | Path = "") -> SegmentationBuilder:
    """Makes a dataset's builder, without reading or writing records; see `prepare` for the arguments."""
    folder = Path(source).expanduser().resolve() if source and dataset.source_help else None
    make: Any = partial(FolderBuilder, dataset) if isinstance(dataset, FolderDataset) else BUILDERS[dataset.name]
    return make(data_dir=Path(data_dir).expanduser(), source=folder)


def prepare(
    dataset: Dataset, data_dir: str | AnyPath, source: str | Path = "", *, cache: str | Path = ""
) -> SegmentationBuilder:
    """Writes the dataset's records under `data_dir` unless they exist, and returns their builder.

    TFDS writes into a temporary folder and renames it at the end, so an interrupted preparation is never mistaken for
    a complete one.

    Args:
      dataset: the dataset's descriptor.
      data_dir: folder of all prepared datasets.
      source: folder or zip archive of the raw files, for datasets that need one.
      cache: folder for this host's copy of the records if `data_dir` is in an object store.

    Raises:
      UserError: if the source is missing or faulty, or the records were made from another source.
    """
    if files.is_remote(data_dir):
        return _prepare_in_store(dataset, files.as_path(data_dir), source, files.as_local_path(cache))
    make = partial(make_builder, dataset, data_dir, source)
    builder = make()
    if not builder.is_prepared():
        builder.examples()  # finds missing files before anything is written
        files.make_folder(Path(data_dir).expanduser(), "config.data.dir")
        print(f"Preparing {dataset.name} in {builder.data_dir}", flush=True)
        _write(builder, make)
        # Another process may have finished first; then its records are used.
        builder = make()
        _compare_sizes(builder)
    made_from, wanted = builder.info.metadata["source"], builder.source_path
    if wanted is not None and made_from != str(wanted):
        raise UserError(
            f"{builder.data_dir} was prepared from {made_from}, not from {wanted}: delete {builder.data_dir} and run "
            "--mode=prepare again, or set another config.data.dir"
        )
    return builder


def _prepare_in_store(dataset: Dataset, data_dir: AnyPath, source: str | Path, cache: Path) -> SegmentationBuilder:
    """Downloads the records from an object store; if they do not exist there, prepares and uploads them."""
    folder = cache / quote(str(data_dir), safe="")
    local = Path(make_builder(dataset, folder, source).data_dir)
    remote = data_dir / local.relative_to(folder).as_posix()
    if object_store.is_complete(remote):
        object_store.download(remote, local)
        return prepare(dataset, folder, source)
    files.make_folder(data_dir, "config.data.dir")
    builder = prepare(dataset, folder, source)
    object_store.upload(local, remote)
    return builder


def _write(builder: SegmentationBuilder, make: Callable[[], SegmentationBuilder]) -> None:
    (tfds.enable_progress_bar if progress.on_terminal() else tfds.disable_progress_bar)()
    try:
        # TFDS would announce download sizes, which it does not know.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="array_record")
    except FileExistsError:
        # The final rename fails if another process has prepared the same records meanwhile.
        if not make().is_prepared():
            raise
    except (OSError, RuntimeError) as error:
        if not _disk_is_full(error):
            raise
        raise UserError(
            f"the disk of {builder.data_dir} is full (the unfinished records were deleted): free space and run "
            "--mode=prepare again, or set another config.data.dir"
        ) from error


def _disk_is_full(error: Exception) -> bool:
    """Recognises a full disk by the message, since the record writer raises errors without an errno."""
    reasons = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
    return any(reason in str(error) for reason in reasons)


def _compare_sizes(builder: SegmentationBuilder) -> None:
    for split, expected in builder.DATASET.splits.items():
        found = builder.info.splits[split].num_examples if split in builder.info.splits else "no"
        if found != expected:
            print(f"Note: split {split} of {builder.name} has {found} examples here, {expected} in the publication")


def records(builder: SegmentationBuilder, split: str) -> Records:
    """Opens a split as a random-access, picklable sequence of undecoded records.

    Raises:
      UserError: if the prepared dataset has no such split.
    """
    if split not in builder.info.splits:
        raise UserError(
            f"{builder.name} in {builder.data_dir} has no split {split!r}: use one of {sorted(builder.info.splits)}"
        )
    raw = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split, decoders=raw)
