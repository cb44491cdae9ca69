"""Which images --images means, and what their predictions are called."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class InputImage:
    """Attributes:
    path: of the file.
    name: of its prediction, no other image's: a relative path, by default without the file's ending.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Found:
    """Attributes:
    images: each once, in the order of the arguments, within a folder or pattern by name.
    skipped: files in folders or matched by patterns that are no images by their ending.
    """

    images: list[InputImage]
    skipped: int


def find_images(arguments: Sequence[str], *, outputs: Sequence[Path] = ()) -> Found:
    """The images that files, folders (with all below them) and patterns (** for any folders) name.

    Hidden files are left out of folders; so is, of patterns too, what is reached over linked folders. A name keeps the
    folders below the one that all arguments share, so that images of the same name in different folders stay apart.

    Args:
      arguments: each one of these, or several divided by commas.
      outputs: folders of predictions; what lies in them is no input of the next run, unless it is asked for.

    Raises:
      UserError: where an argument names nothing.
    """
    wanted = [part for argument in arguments for part in _split(argument) if part]
    if not wanted:
        raise UserError("--images is missing: name files, folders or patterns, --images=photos for instance")
    paths, roots, skipped = {}, [], set()
    for argument in wanted:
        root, images, others = _search(argument, outputs)
        paths |= dict.fromkeys(images)
        roots.append(root)
        skipped |= set(others)
    names = _names(list(paths), Path(os.path.commonpath(roots)))
    return Found([InputImage(path, name) for path, name in zip(paths, names, strict=True)], len(skipped))


def _split(argument: str) -> list[str]:
    """At commas, but not in the name of a file that is there."""
    return [argument] if _exists(_local(argument)) else argument.split(",")


def _local(argument: str) -> Path:
    if files.is_remote(argument):
        raise UserError(f"--images names {argument}, in an object store: copy it to a local disk first")
    return files.as_path(argument)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # several names together are longer than any one may be
        return False


def _search(argument: str, outputs: Iterable[Path]) -> tuple[Path, list[Path], list[Path]]:
    """(folder searched, images in it, other files), absolute; UserError where there is no image."""
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
    images = [file for file in inputs if file.suffix.lower() in ENDINGS]
    if not images:
        what = f"{argument} holds no image" if path.is_dir() else f"no image matches {argument}"
        others = f" among {len(inputs)} files" if inputs else ""
        raise UserError(f"--images: {what}{others}: name a folder of {', '.join(ENDINGS)} files, or a pattern for them")
    return root, images, [file for file in inputs if file.suffix.lower() not in ENDINGS]


def _walk(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"--images: {error.filename} cannot be read ({error.strerror}): allow it, or name others")

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())  # no pipes


def _is_behind_a_link(path: Path, root: Path) -> bool:
    """Whether a folder between them is a link: it may lead back up, and then to the same images without end."""
    below = path.relative_to(root).parts[:-1]
    return any(root.joinpath(*below[: depth + 1]).is_symlink() for depth in range(len(below)))


def _fixed_part(pattern: Path) -> Path:
    """The folders before the first wildcard."""
    return next(parent for parent in pattern.parents if not glob.has_magic(str(parent)))


def _lies_in_any(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(os.path.abspath(folder)) for folder in folders)


def _names(paths: Sequence[Path], root: Path) -> list[str]:
    """Without endings, but where only these tell two images apart."""
    whole = [path.relative_to(root) for path in paths]
    short = [path.with_suffix("") for path in whole]
    times = Counter(short)
    names = [brief if times[brief] == 1 else full for brief, full in zip(short, whole, strict=True)]
    # a.jpg and a.png beside a.jpg.png: only whole names never meet.
    return [str(name) for name in (names if len(set(names)) == len(names) else whole)]
