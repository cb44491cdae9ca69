"""Checksums of a folder's files, in the format of `sha256sum`."""

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, cast

from etils import epath

from cpnet_jax.runtime import files

NAME = "SHA256SUMS"
# The files that Orbax writes have short names.
LINE = re.compile(r"([0-9a-f]{64})  ([^\0]{1,200})")
END = "# {} files"  # the last line; a comment to `sha256sum --check`


def write(folder: epath.Path, *, unfinished: Collection[str] = ()) -> None:
    """Writes the list. Files that an earlier list names are not read again; `unfinished` ones are left out."""
    known = _read(folder) if (folder / NAME).exists() else {}
    digests = known | _digests(folder, [name for name in _files(folder) if name not in {*known, *unfinished}])
    lines = [f"{digest}  {name}" for name, digest in sorted(digests.items())]
    temporary = folder / f".{NAME}.tmp"
    temporary.write_text("\n".join([*lines, END.format(len(lines)), ""]), encoding="utf-8")
    temporary.replace(folder / NAME)


def damage(folder: epath.Path) -> str | None:
    """What is wrong with the folder's files; None if they match the list.

    Raises:
      FileNotFoundError: if the folder has no list.
    """
    if strange := _strange(folder):
        return f"{strange} is neither a file nor a folder"
    try:
        expected = _read(folder)
    except ValueError as error:
        return str(error)
    try:
        missing = [name for name in expected if not (folder / name).is_file()]
    except (OSError, ValueError):  # a name that no file can have
        return f"{NAME} is damaged"
    if missing:
        return f"{missing[0]} is missing"
    found = _digests(folder, list(expected))
    changed = [name for name, digest in expected.items() if found[name] != digest]
    return f"{changed[0]} has changed since it was written" if changed else None


def size(folder: epath.Path) -> int:
    """Bytes of all files that the list covers or could cover."""
    return sum(files.size(folder / name) for name in _files(folder))


def _strange(folder: epath.Path) -> str | None:
    """A pipe, a device, a broken link or a link to a folder: reading these may never end."""
    if files.is_remote(folder):
        return None
    for parent, folders, names in os.walk(folder):
        paths = [Path(parent, name) for name in folders if os.path.islink(Path(parent, name))]
        paths += [path for name in names if not (path := Path(parent, name)).is_file()]
        if paths:
            return os.path.relpath(min(paths), folder)
    return None


def _read(folder: epath.Path) -> dict[str, str]:
    """File name -> digest. Raises ValueError if the list is damaged or cut short."""
    try:
        *lines, end, rest = (folder / NAME).read_text(encoding="utf-8").split("\n")
    except ValueError:  # two lines at least, of text
        lines, end, rest = [], "", ""
    matches = [match for line in lines if (match := LINE.fullmatch(line))]
    inside = all(not (path := PurePosixPath(match[2])).is_absolute() and ".." not in path.parts for match in matches)
    if rest or end != END.format(len(lines)) or len(matches) != len(lines) or not inside:
        raise ValueError(f"{NAME} is damaged")
    return {match[2]: match[1] for match in matches}


def _files(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
        elif path.name not in (NAME, f".{NAME}.tmp"):
            yield prefix + path.name


def _digests(folder: epath.Path, names: list[str]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:  # hashing and reading release Python's lock
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


def _digest(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
