"""What the builders on PASCAL VOC's development kit share: its folders, its lists of ids, and .mat files."""

import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
import scipy.io
from jaxtyping import Integer

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.errors import UserError

SPLITS = ("train", "val")


def release_root(builder: SegmentationBuilder, year: int) -> str:
    """The prefix ("" or "folder/") of the release's folders, wherever in the source they lie.

    Raises:
      UserError: where the source has no JPEGImages, or those of other years, or cannot say which.
    """
    source = builder.source
    roots = {name[: name.rindex("JPEGImages/")] for name in source.glob("*JPEGImages/*.jpg")}
    folders = {root: PurePosixPath(root).name or source.path.stem for root in sorted(roots)}
    # Several years lie side by side in VOCdevkit; a folder that carries no year is taken at its user's word.
    found = [root for root, folder in folders.items() if folder == f"VOC{year}"]
    found = found or [root for root, folder in folders.items() if not re.fullmatch(r"VOC\d{4}", folder)]
    if len(found) > 1:
        raise UserError(f"{source.path} has JPEGImages in {', '.join(found)}: let config.data.source hold one of them")
    if not found:
        others = f" but those of {', '.join(folders.values())}" if folders else ""
        raise UserError(
            f"{source.path} has no JPEGImages of VOC{year}{others}: config.data.source must be "
            f"{builder.DATASET.source_help}"
        )
    return found[0]


def read_ids(builder: SegmentationBuilder, name: str) -> list[str]:
    """The ids that a list names, a line each; of lines of file names the first's stem.

    Raises:
      UserError: where the list is missing or empty.
    """
    source = builder.source
    if name not in source.names:
        raise UserError(f"{source.where(name)} is missing: config.data.source must be {builder.DATASET.source_help}")
    lines = source.read(name).decode(errors="replace").splitlines()
    ids = [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
    if not ids:
        raise UserError(f"{source.where(name)} is empty: fetch it again")
    return ids


def files_in(source: Source, folder: str, suffix: str) -> list[str]:
    """Names right below a folder, given with its "/"."""
    return [name for name in source.names if PurePosixPath(name).suffix == suffix and _folder(name) == folder]


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def by_stem(names: Iterable[str]) -> dict[str, str]:
    """File name without folder and ending -> name."""
    return {PurePosixPath(name).stem: name for name in names}


def pairs_of(builder: SegmentationBuilder, root: str, ids: Iterable[str], labels: dict[str, str]) -> list[Pair]:
    """The pairs of those ids, sorted and each once.

    Args:
      root: of the release, see `release_root`.
      ids: that a list names.
      labels: id -> name of the label's file.

    Raises:
      UserError: where an image or a label is missing.
    """
    images = by_stem(files_in(builder.source, f"{root}JPEGImages/", ".jpg"))
    ids = sorted(set(ids))
    for what, files in (("image", images), ("label", labels)):
        lonely = [name for name in ids if name not in files]
        if lonely:
            raise UserError(
                f"{builder.source.path} has no {what} of {lonely[0]}, which a split lists ({len(lonely)} such in all): "
                "unpack the archives again"
            )
    return [Pair(name, images[name], labels[name]) for name in ids]


def read_matrix(source: Source, name: str, *path: str) -> Integer[np.ndarray, "h w"]:
    """A matrix of whole numbers from 0 on in a .mat file.

    Args:
      path: the variable's name, then the fields of structs down to the matrix.

    Raises:
      UserError: where the file is damaged or holds no such matrix.
    """
    data = source.read(name)
    try:
        value = scipy.io.loadmat(BytesIO(data), simplify_cells=True)
    except Exception as error:  # of damaged bytes it raises whatever it stumbles over
        raise UserError(f"{source.where(name)} cannot be read as a .mat file ({error}): fetch it again") from error
    for field in path:
        value = value.get(field) if isinstance(value, dict) else None
    numeric = isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "uif"
    # MATLAB's numbers are floats until they are saved: which type they get then is no matter.
    if not numeric or not ((value >= 0) & (value % 1 == 0)).all():
        raise UserError(f"{source.where(name)} has no matrix {'.'.join(path)} of class numbers: fetch it again")
    return value.astype(np.int32)
