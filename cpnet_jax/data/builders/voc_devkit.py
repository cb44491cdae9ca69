"""Reads PASCAL VOC's development kit: its folders, its lists of ids, and .mat files."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Integer

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, files_by_id
from cpnet_jax.data.builders.mat_file import read_array
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.errors import UserError

SPLITS = ("train", "val")


def release_root(builder: SegmentationBuilder, year: int) -> str:
    """Finds the prefix ("" or "folder/") of a year's folders in the builder's source.

    Raises:
      UserError: if the source has no JPEGImages, only those of other years, or several candidates.
    """
    source = builder.source
    roots = {name[: name.rindex("JPEGImages/")] for name in source.glob("*JPEGImages/*.jpg")}
    folders = {root: PurePosixPath(root).name or source.path.stem for root in sorted(roots)}
    # VOCdevkit may hold several years side by side; a folder without a year in its name is assumed to be the right one.
    found = [root for root, folder in folders.items() if folder == f"VOC{year}"]
    found = found or [root for root, folder in folders.items() if not re.fullmatch(r"VOC\d{4}", folder)]
    if len(found) > 1:
        raise UserError(f"{source.path} has JPEGImages in {', '.join(found)}: set config.data.source to one of them")
    if not found:
        others = f", only those of {', '.join(folders.values())}" if folders else ""
        raise UserError(
            f"{source.path} has no JPEGImages of VOC{year}{others}: config.data.source must be "
            f"{builder.DATASET.source_help}"
        )
    return found[0]


def read_ids(builder: SegmentationBuilder, name: str) -> list[str]:
    """Reads a list of ids, one a line; from a line of file names, takes the first one's stem.

    Raises:
      UserError: if the list is missing or empty. For evaluation, it may be missing.
    """
    source = builder.source
    if builder.for_evaluation and name not in source.names:
        return []
    if name not in source.names:
        raise UserError(f"{source.where(name)} is missing: config.data.source must be {builder.DATASET.source_help}")
    lines = source.read(name).decode(errors="replace").splitlines()
    ids = [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
    if not ids:
        raise UserError(f"{source.where(name)} is empty: download it again")
    return ids


def files_in(source: Source, folder: str, suffix: str) -> list[str]:
    """Returns the names directly in a folder (given with its "/") that have a suffix."""
    return [name for name in source.names if PurePosixPath(name).suffix == suffix and _folder(name) == folder]


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def pairs_of(builder: SegmentationBuilder, root: str, ids: Iterable[str], labels: dict[str, str]) -> list[Pair]:
    """Pairs images and labels by id; sorted, each id once.

    Args:
      builder: builder whose source is read.
      root: prefix of the release, see `release_root`.
      ids: ids that a list names.
      labels: id -> name of the label's file.

    Raises:
      UserError: if an image or a label is missing. For evaluation, all images may be missing.
    """
    images = files_by_id(builder.source, files_in(builder.source, f"{root}JPEGImages/", ".jpg"))
    ids = sorted(set(ids))
    if builder.for_evaluation and images.keys().isdisjoint(ids):
        return []
    for what, files in (("image", images), ("label", labels)):
        missing = [name for name in ids if name not in files]
        if missing:
            raise UserError(
                f"{builder.source.path} has no {what} for {missing[0]}, which a split lists ({len(missing)} missing in "
                "all): unpack the archives again"
            )
    return [Pair(name, images[name], labels[name]) for name in ids]


def read_matrix(source: Source, name: str, *path: str) -> Integer[np.ndarray, "h w"]:
    """Reads a matrix of integers >= 0 from a .mat file.

    Args:
      source: the raw files.
      name: name of the .mat file.
      path: the variable's name, then the struct fields that lead to the matrix.

    Raises:
      UserError: if the file is damaged or holds no such matrix.
    """
    data = source.read(name)
    try:
        matrix = read_array(data, *path)
    except ValueError as error:
        raise UserError(
            f"{source.where(name)} has no matrix {'.'.join(path)} that can be read ({error}): download it again"
        ) from error
    # Any numeric type is accepted, since MATLAB's default is a float.
    if matrix.ndim != 2 or not ((matrix >= 0) & (matrix < 2**31) & (matrix % 1 == 0)).all():
        raise UserError(f"{source.where(name)} has no matrix {'.'.join(path)} of class numbers: download it again")
    return matrix.astype(np.int32)
