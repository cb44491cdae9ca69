"""Reads raw files from folders and zip archives alike."""

import fnmatch
import glob
import os
import threading
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from cpnet_jax.errors import UserError


class Source:
    """The raw files of a dataset: all files in a folder or in one zip archive; names are relative and use "/".

    Zip archives directly in the folder are read as if they were unpacked there. If a name occurs twice, an unpacked
    file precedes an archived one, and the first archive in alphabetical order wins. Several threads may read at once.

    Attributes:
      path: the folder or the archive.
      names: names of all files, sorted; without hidden files and those that macOS adds to archives.

    Args:
      path: a folder or a .zip file.

    Raises:
      UserError: if the path does not exist, a folder cannot be listed, or an archive is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir() and not path.is_file():
            raise UserError(f"config.data.source is {path}, which does not exist: set it to a folder or a zip archive")
        unpacked = set(_files_below(path)) if path.is_dir() else set()
        packed = {name for name in unpacked if "/" not in name and name.lower().endswith(".zip")}
        archives = [path / name for name in sorted(packed)] if path.is_dir() else [path]
        self._archive_of: dict[str, zipfile.ZipFile] = {}
        for archive in map(_open_archive, archives):
            for name in _members(archive):
                if name not in unpacked:
                    self._archive_of.setdefault(name, archive)
        self._lock = threading.Lock()
        self.names = sorted((unpacked - packed) | self._archive_of.keys())

    def glob(self, pattern: str) -> list[str]:
        """Returns the names that match a pattern; `*` also matches "/"."""
        return fnmatch.filter(self.names, pattern)

    def root_of(self, folder: str) -> str:
        """Returns the prefix of patterns for files in `folder` ("images/"): "", or "OUTER/" if OUTER contains it.

        Users may thus name a folder or the one around it. The prefix is "" if the folder is in neither.
        """
        outer = sorted({name.partition("/")[0] + "/" for name in self.names if "/" in name})
        return next((glob.escape(root) for root in ("", *outer) if self._any_below(root + folder)), "")

    def _any_below(self, prefix: str) -> bool:
        place = bisect_left(self.names, prefix)
        return place < len(self.names) and self.names[place].startswith(prefix)

    def read(self, name: str) -> bytes:
        """Reads a file's bytes; raises UserError if it cannot be read or its checksum in the archive is wrong."""
        archive = self._archive_of.get(name)
        try:
            return self._unpack(archive, name) if archive else (self.path / name).read_bytes()
        # RuntimeError: an encrypted member, or an unknown compression.
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.where(name)} cannot be read ({error}): download it again") from error

    def _unpack(self, archive: zipfile.ZipFile, name: str) -> bytes:
        # ZipFile locks its reads, but not its count of open members, by which it decides when to close its file.
        with self._lock:
            member = archive.open(name)
        try:
            return member.read()
        finally:
            with self._lock:
                member.close()

    def where(self, name: str) -> str:
        """Returns the file's path for messages."""
        archive = self._archive_of.get(name)
        return str((Path(str(archive.filename)) if archive else self.path) / name)


def _files_below(folder: str | Path, prefix: str = "", around: tuple[str, ...] = ()) -> Iterator[str]:
    """Lists files by relative name; links are followed, except to a folder that contains them."""
    here = os.path.realpath(folder)
    if here in around:
        return
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not _hidden(entry.name)]
        folders = [entry for entry in shown if entry.is_dir()]
        yield from (prefix + entry.name for entry in shown if entry.is_file())
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): make it readable or remove it") from error
    for entry in folders:
        yield from _files_below(entry.path, f"{prefix}{entry.name}/", (*around, here))


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{path}, which config.data.source names or contains, is not a complete zip archive ({error}): download it "
            "again or remove it"
        ) from error


def _members(archive: zipfile.ZipFile) -> list[str]:
    names = (info.filename for info in archive.infolist() if not info.is_dir())
    return [name for name in names if not any(map(_hidden, name.split("/")))]


def _hidden(part: str) -> bool:
    return part.startswith((".", "__MACOSX"))
