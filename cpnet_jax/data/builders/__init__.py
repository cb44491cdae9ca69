"""Prepares datasets: TFDS builders write ArrayRecord files once, which are then read without TensorFlow.

Every dataset has the same records: "id" (text), "image" (the bytes of a JPEG or PNG) and "label" (the bytes of a
one-channel PNG of training ids: class indices, or 255 for ignored pixels).
"""

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tensorflow_datasets as tfds

from cpnet_jax.data.builders import object_store
from cpnet_jax.data.builders.ade20k import Ade20kBuilder
from cpnet_jax.data.builders.base import EVALUATION, SegmentationBuilder
from cpnet_jax.data.builders.camvid import CamvidBuilder
from cpnet_jax.data.builders.cityscapes import CityscapesBuilder
from cpnet_jax.data.builders.coco_stuff import CocoStuffBuilder
from cpnet_jax.data.builders.folder import FolderBuilder, describe_folder
from cpnet_jax.data.builders.pascal_context import PascalContext60Builder, PascalContextBuilder
from cpnet_jax.data.builders.prepared_folders import find_prepared, folder_name
from cpnet_jax.data.builders.scenes import ScenesBuilder, ScenesPlacesBuilder
from cpnet_jax.data.builders.voc import VocBuilder
from cpnet_jax.data.catalog import Dataset, FolderDataset
from cpnet_jax.data.records import Records
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, leftovers, progress
from cpnet_jax.runtime.files import AnyPath

__all__ = [
    "BUILDERS",
    "FolderBuilder",
    "SegmentationBuilder",
    "describe_folder",
    "find_prepared",
    "make_builder",
    "prepare",
    "prepare_for_evaluation",
    "records",
]

# Builders of the datasets in the catalog; FolderBuilder is missing, since it needs a descriptor.
BUILDERS: dict[str, type[SegmentationBuilder]] = {
    builder.name: builder
    for builder in (
        Ade20kBuilder,
        CamvidBuilder,
        CityscapesBuilder,
        CocoStuffBuilder,
        PascalContextBuilder,
        PascalContext60Builder,
        ScenesBuilder,
        ScenesPlacesBuilder,
        VocBuilder,
    )
}


def make_builder(
    dataset: Dataset,
    data_dir: str | AnyPath,
    source: str | Path = "",
    *,
    for_evaluation: bool = False,
    copy_of: AnyPath | None = None,
) -> SegmentationBuilder:
    """Makes a dataset's builder, without reading or writing records; see `prepare` for the other arguments.

    Args:
      copy_of: data_dir in an object store, of which `data_dir` is this host's counterpart.

    Raises:
      UserError: if records exist whose description is damaged.
    """
    location: Any = Path(source).expanduser().resolve() if source and dataset.source_help else None
    data_dir = Path(data_dir).expanduser()
    if isinstance(dataset, FolderDataset):
        name = folder_name(copy_of or data_dir, location, dataset)
        make: Any = partial(FolderBuilder, dataset, folder=name)
        damaged = data_dir / dataset.name / name
    else:
        make, damaged = _builder_of(dataset), data_dir / dataset.name
    try:
        builder = make(data_dir=data_dir, source=location, for_evaluation=for_evaluation)
        builder.copy_of = copy_of
        return builder
    except UserError:
        raise
    except Exception as error:  # TFDS reads the description of prepared records, by parsers without a common error
        if not damaged.exists():
            raise
        original = copy_of and copy_of / damaged.relative_to(data_dir).as_posix()
        more = f"; if that does not help, delete {original} as well" if original else ""
        raise UserError(
            f"the description of the records in {damaged} cannot be read ({' '.join(str(error).split())[:200]}): "
            f"delete {damaged} and run --mode=prepare again{more}"
        ) from error


def _builder_of(dataset: Dataset) -> type[SegmentationBuilder]:
    if dataset.name not in BUILDERS:
        raise UserError(
            f"config.data.name is {dataset.name!r}, a dataset without a builder: add one to BUILDERS in the config "
            "file that adds the dataset"
        )
    return BUILDERS[dataset.name]


def prepare(
    dataset: Dataset,
    data_dir: str | AnyPath,
    source: str | Path = "",
    *,
    cache: str | Path = "",
    skip_unreadable: bool = False,
    for_evaluation: bool = False,
    download: bool = False,
) -> SegmentationBuilder:
    """Writes the dataset's records under `data_dir` unless they exist, and returns their builder.

    TFDS writes into a temporary folder and renames it at the end, so an interrupted preparation is never mistaken for
    a complete one.

    Args:
      dataset: the dataset's descriptor.
      data_dir: folder of all prepared datasets.
      source: folder or archive of the raw files, for datasets that need one; empty: data_dir/downloads.
      cache: folder for this host's copy of the records if `data_dir` is in an object store.
      skip_unreadable: whether pairs that cannot be read are reported and left out; otherwise the first one raises.
      for_evaluation: whether splits of the source may be missing, see `prepare_for_evaluation`.
      download: whether published files may be downloaded if there are neither records nor a source.

    Raises:
      UserError: if the source is missing or faulty, or the records were made from another source.
    """
    make = partial(make_builder, dataset, source=source, for_evaluation=for_evaluation)
    if files.is_remote(data_dir):
        store = files.as_path(data_dir)
        make = partial(make, copy_of=store)
        return _prepare_in_store(make, store, files.as_local_path(cache), skip_unreadable, download)
    return _prepare(partial(make, data_dir), skip_unreadable, download)


def prepare_for_evaluation(
    dataset: Dataset,
    data_dir: str | AnyPath,
    source: str | Path = "",
    *,
    cache: str | Path = "",
    skip_unreadable: bool = False,
    download: bool = False,
) -> SegmentationBuilder:
    """Does what `prepare` does, but needs no images to train on.

    Records of a source without them are kept apart in data_dir/evaluation, so that training never takes them for a
    whole dataset.
    """
    apart = files.as_path(data_dir) / EVALUATION
    prepared = partial(_is_prepared, dataset, source=source, cache=cache)
    is_apart = not prepared(data_dir) and (prepared(apart) or not _can_train(dataset, apart, source))
    return prepare(
        dataset,
        apart if is_apart else data_dir,
        source,
        cache=cache,
        skip_unreadable=skip_unreadable,
        for_evaluation=is_apart,
        download=download,
    )


def _is_prepared(dataset: Dataset, data_dir: str | AnyPath, *, source: str | Path, cache: str | Path) -> bool:
    make = partial(make_builder, dataset, source=source)
    if files.is_remote(data_dir):
        store = files.as_path(data_dir)
        return object_store.is_complete(_copies(partial(make, copy_of=store), store, files.as_local_path(cache))[2])
    return make(data_dir).is_prepared()


def _can_train(dataset: Dataset, data_dir: AnyPath, source: str | Path) -> bool:
    if not source and dataset.downloads:
        return True  # all of the published files are read
    return not dataset.source_help or make_builder(dataset, data_dir, source, for_evaluation=True).can_train()


def _prepare(make: Callable[..., SegmentationBuilder], skip_unreadable: bool, download: bool) -> SegmentationBuilder:
    """Writes the records on a local disk unless they exist; returns their builder."""
    builder = make()
    for pattern in ("incomplete.*", "*/incomplete.*"):  # TFDS's name for what it writes
        leftovers.remove_folders(Path(builder.data_dir_root) / builder.name, pattern)
    if not builder.is_prepared():
        _refuse_incomplete(builder)
        if builder.source_path is None and builder.DATASET.downloads:
            from cpnet_jax.data import downloads  # here, since its HTTP library is slow to import

            folder = downloads.find(builder.DATASET, Path(builder.data_dir_root), download=download)
            make = partial(make, source=folder)
            builder = make()
        builder.skip_unreadable = skip_unreadable
        builder.examples()  # finds missing files before anything is written
        files.make_folder(Path(builder.data_dir_root), "config.data.dir")
        print(f"Preparing {builder.name} in {builder.data_dir}", flush=True)
        _write(builder, make)
        # Another process may have finished first; then its records are used.
        builder = make()
    made_from, wanted = builder.info.metadata["source"], builder.source_path
    if wanted is not None and made_from != str(wanted):
        raise UserError(
            f"{builder.records_dir} was prepared from {made_from}, not from {wanted}: set another config.data.dir, or "
            f"delete {builder.records_dir} and run --mode=prepare again"
        )
    _compare_sizes(builder)
    builder.compare_with_source()
    return builder


def _prepare_in_store(
    make: Callable[..., SegmentationBuilder], data_dir: AnyPath, cache: Path, skip_unreadable: bool, download: bool
) -> SegmentationBuilder:
    """Downloads the records from an object store; if they do not exist there, prepares and uploads them."""
    folder, local, remote = _copies(make, data_dir, cache)
    if object_store.is_complete(remote):
        object_store.download(remote, local)
        return _prepare(partial(make, folder), skip_unreadable, download)
    files.make_folder(data_dir, "config.data.dir")
    if not remote.exists():  # deleted to prepare them again: this host's copy must not return
        shutil.rmtree(local, ignore_errors=True)
    builder = _prepare(partial(make, folder), skip_unreadable, download)
    object_store.upload(local, remote)
    return builder


def _copies(make: Callable[..., SegmentationBuilder], data_dir: AnyPath, cache: Path) -> tuple[Path, Path, AnyPath]:
    """This host's counterpart of data_dir in an object store, and the folders of the records here and there."""
    folder = cache / quote(str(data_dir), safe="")
    builder = make(folder)
    return folder, Path(builder.data_dir), builder.records_dir


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


def _refuse_incomplete(builder: SegmentationBuilder) -> None:
    """Raises UserError if the folder of the records lacks their description; TFDS would write nothing into it."""
    # In this order, since another process may rename its complete folder at any time.
    if Path(builder.data_dir).exists() and not builder.is_prepared():
        raise UserError(
            f"{builder.data_dir} is incomplete (it has no {object_store.LAST}): delete it and run --mode=prepare "
            "again, or finish copying it"
        )


def _disk_is_full(error: Exception) -> bool:
    """Recognises a full disk by the message, since the record writer raises errors without an errno."""
    reasons = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
    return any(reason in str(error) for reason in reasons)


def _compare_sizes(builder: SegmentationBuilder) -> None:
    for split, expected in builder.DATASET.splits.items():
        if builder.for_evaluation and split not in builder.info.splits:
            continue
        found = builder.info.splits[split].num_examples if split in builder.info.splits else "no"
        if found != expected:
            print(
                f"Note: split {split} of {builder.name} has {found} examples here, {expected} in the publication; if "
                f"the source has others now, delete {builder.records_dir} and run --mode=prepare again",
                flush=True,
            )


def records(builder: SegmentationBuilder, split: str) -> Records:
    """Opens a split, or several joined by "+", as a random-access, picklable sequence of undecoded records.

    Raises:
      UserError: if the prepared dataset has no such split.
    """
    if not set(split.split("+")) <= builder.info.splits.keys():
        raise UserError(
            f"{builder.name} in {builder.data_dir} has no split {split!r}: set config.data.train_split or eval_split, "
            f"whichever is {split!r}, to one of {sorted(builder.info.splits)}"
        )
    raw = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split, decoders=raw)
