"""Raw files where users have them: in folders, still in the zip archives they were downloaded as, or partly so."""

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
    """The files below one folder, or in one zip archive, read in place; names are relative and use "/".

    Zip archives that lie in the folder itself are read as though they were unpacked there. Where a name is found
    twice, an unpacked file comes before an archive's, and an earlier archive (by its name) before a later one.
    Several threads may read at once.

    Attributes:
      path: the folder or the archive.
      names: of all files, sorted; hidden ones and what macOS adds to archives left out.

    Args:
      path: a folder or a .zip file.

    Raises:
      UserError: where there is neither, a folder cannot be listed, or an archive is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir() and not path.is_file():
            raise UserError(f"config.data.source is {path}, which does not exist: name a folder or a zip archive")
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
        """Names that match, `*` also across "/"."""
        return fnmatch.filter(self.names, pattern)

    def root_of(self, folder: str) -> str:
        """How patterns begin for files below `folder` ("images/"): "", or "OUTER/" if that is around it, so that users
        may name either; "" also where it is neither here nor there."""
        outer = sorted({name.partition("/")[0] + "/" for name in self.names if "/" in name})
        return next((glob.escape(root) for root in ("", *outer) if self._any_below(root + folder)), "")

    def _any_below(self, prefix: str) -> bool:
        place = bisect_left(self.names, prefix)
        return place < len(self.names) and self.names[place].startswith(prefix)

    def read(self, name: str) -> bytes:
        """The file's bytes; UserError where an archive's member fails its checksum or the file cannot be read."""
        archive = self._archive_of.get(name)
        try:
            return self._unpack(archive, name) if archive else (self.path / name).read_bytes()
        # RuntimeError: a member that is encrypted, or compressed in a way Python does not know.
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.where(name)} cannot be read ({error}): fetch it again") from error

    def _unpack(self, archive: zipfile.ZipFile, name: str) -> bytes:
        # A ZipFile locks its reads by itself, but not the count of open members by which it may close its file.
        with self._lock:
            member = archive.open(name)
        try:
            return member.read()
        finally:
            with self._lock:
                member.close()

    def where(self, name: str) -> str:
        """How a message names the file."""
        archive = self._archive_of.get(name)
        return str((Path(archive.filename) if archive else self.path) / name)


def _files_below(folder: str | Path, prefix: str = "", around: tuple[str, ...] = ()) -> Iterator[str]:
    """Relative names; links are followed, unless to a folder that they lie in."""
    here = os.path.realpath(folder)
    if here in around:
        return
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not _hidden(entry.name)]
        folders = [entry for entry in shown if entry.is_dir()]
        yield from (prefix + entry.name for entry in shown if entry.is_file())
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): make it readable, or take it out") from error
    for entry in folders:
        yield from _files_below(entry.path, f"{prefix}{entry.name}/", (*around, here))


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{path}, which config.data.source names or holds, is no whole zip archive ({error}): fetch it again, "
            "or take it out"
        ) from error


def _members(archive: zipfile.ZipFile) -> list[str]:
    names = (info.filename for info in archive.infolist() if not info.is_dir())
    return [name for name in names if not any(map(_hidden, name.split("/")))]


def _hidden(part: str) -> bool:
    return part.startswith((".", "__MACOSX"))
