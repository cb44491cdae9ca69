"""Finds the image files that --images names, and names their predictions."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class InputImage:
    """An image file and the unique name of its prediction.

    Attributes:
      path: the file.
      name: a relative path, normally without the file's suffix.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class FoundImages:
    """The result of `find_images`.

    Attributes:
      images: each image once, in the order of the arguments, sorted by name within a folder or pattern.
      skipped: number of files whose suffix is not in IMAGE_SUFFIXES.
    """

    images: list[InputImage]
    skipped: int


def find_images(arguments: Sequence[str], *, outputs: Sequence[files.AnyPath] = ()) -> FoundImages:
    """Finds images by files, folders (searched recursively) and patterns (** matches any folders).

    Hidden files in folders are skipped, and so are files behind linked folders. A prediction's name keeps the folders
    below the common parent of all arguments. Thus images of the same name in different folders stay apart.

    Args:
      arguments: file, folder or pattern, or several separated by commas.
      outputs: folders of predictions. Files in them are skipped unless an argument lies in these folders.

    Raises:
      UserError: if an argument matches no image.
    """
    wanted = [part for argument in arguments for part in _split(argument) if part]
    if not wanted:
        raise UserError("--images is missing: name files, folders or patterns, for example --images=photos")
    paths, roots, skipped = {}, [], set()
    for argument in wanted:
        root, images, others = _search(argument, outputs)
        paths |= dict.fromkeys(images)
        roots.append(root)
        skipped |= set(others)
    names = _names(list(paths), Path(os.path.commonpath(roots)))
    return FoundImages([InputImage(path, name) for path, name in zip(paths, names, strict=True)], len(skipped))


def _split(argument: str) -> list[str]:
    """Splits at commas, except in the name of an existing file."""
    return [argument] if _exists(_local(argument)) else argument.split(",")


def _local(argument: str) -> Path:
    if files.is_remote(argument):
        raise UserError(f"--images names {argument}, which is in an object store: copy it to a local disk first")
    return files.as_local_path(argument)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # several names separated by commas can exceed the longest file name
        return False


def _search(argument: str, outputs: Iterable[files.AnyPath]) -> tuple[Path, list[Path], list[Path]]:
    """(searched folder, its images, other files), all absolute; raises UserError if there is no image."""
    path = Path(os.path.abspath(_local(argument)))
    if path.is_dir():
        root, found = path, _walk(path)
    elif _exists(path):
        return path.parent, [path], []
    elif glob.has_magic(argument):
        root = _fixed_part(path)
        matches = (Path(match) for match in glob.iglob(str(path), recursive=True))
        found = sorted(match for match in matches if match.is_file() and not _is_behind_a_link(match, root))
    else:
        raise UserError(f"--images names {argument}, which does not exist: correct the path")
    inputs = [file for file in found if not _lies_in_any(file, outputs) or _lies_in_any(root, outputs)]
    images = [file for file in inputs if file.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        what = f"{argument} holds no image" if path.is_dir() else f"no image matches {argument}"
        others = f" among {len(inputs)} files" if inputs else ""
        raise UserError(
            f"--images: {what}{others}: name a folder of {', '.join(IMAGE_SUFFIXES)} files, or a pattern for them"
        )
    return root, images, [file for file in inputs if file.suffix.lower() not in IMAGE_SUFFIXES]


def _walk(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(
            f"--images: {error.filename} cannot be read ({error.strerror}): fix its permissions, or name another folder"
        )

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())  # skips pipes


def _is_behind_a_link(path: Path, root: Path) -> bool:
    """Whether a folder between them is a link. Following links could loop forever."""
    below = path.relative_to(root).parts[:-1]
    return any(root.joinpath(*below[: depth + 1]).is_symlink() for depth in range(len(below)))


def _fixed_part(pattern: Path) -> Path:
    """The part of a pattern before the first wildcard."""
    return next(parent for parent in pattern.parents if not glob.has_magic(str(parent)))


def _lies_in_any(path: Path, folders: Iterable[files.AnyPath]) -> bool:
    return any(path.is_relative_to(os.path.abspath(folder)) for folder in folders)


def _names(paths: Sequence[Path], root: Path) -> list[str]:
    """Relative paths, without suffixes unless two images differ only in these."""
    whole = [path.relative_to(root) for path in paths]
    short = [path.with_suffix("") for path in whole]
    times = Counter(short)
    names = [brief if times[brief] == 1 else full for brief, full in zip(short, whole, strict=True)]
    # With a.jpg, a.png and a.jpg.png, only the whole names are unique.
    return [str(name) for name in (names if len(set(names)) == len(names) else whole)]
