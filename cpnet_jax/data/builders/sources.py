"""Reads raw files from folders, zip and tar archives alike."""

import fnmatch
import glob
import os
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from cpnet_jax.data.builders.archives import Archive, is_archive, is_unpacked, open_archive
from cpnet_jax.errors import UserError, said

# First characters of files and folders that systems add: hidden ones, and those of macOS, Synology and Windows.
HIDDEN = (".", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN")


class Source:
    """The raw files of a dataset: all files in a folder or in one archive; names are relative and use "/".

    Archives directly in the folder are read as if they were unpacked there. If a name occurs twice, an unpacked file
    precedes an archived one, and the first archive in alphabetical order wins. Several threads may read at once.

    Attributes:
      path: the folder or the archive.
      names: readable names of all files, see `readable`, sorted; without hidden files and those that systems add.

    Args:
      path: a folder, or a zip or tar archive.

    Raises:
      UserError: if the path does not exist, a folder cannot be listed, or an archive is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"config.data.source is '{readable(str(path))}', whose bytes are not UTF-8: rename it"
            ) from error
        if not path.is_dir() and not path.is_file():
            raise UserError(f"config.data.source is {path}, which does not exist: set it to a folder or an archive")
        unpacked = _by_readable_name(_files_below(path)) if path.is_dir() else {}
        packed = sorted(name for name in unpacked if "/" not in name and is_archive(name))
        archives = [path / unpacked.pop(name) for name in packed] if path.is_dir() else [path]
        # Readable name -> the archive, or None for the folder; the name there.
        self._places: dict[str, tuple[Archive | None, str]] = {name: (None, raw) for name, raw in unpacked.items()}
        for archive in (open_archive(archive) for archive in archives if not is_unpacked(archive, unpacked)):
            for name, raw in _by_readable_name(archive.names).items():
                self._places.setdefault(name, (archive, raw))
        self.names = sorted(self._places)

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

    def namesakes(self, name: str) -> list[str]:
        """Returns the other files whose names differ from this one only in folder, ending or case."""
        return [other for other in self._by_stem.get(_stem(name), []) if other != name]

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.names:
            found.setdefault(_stem(name), []).append(name)
        return found

    def read(self, name: str) -> bytes:
        """Reads a file's bytes; raises UserError if it cannot be read or its checksum in the archive is wrong."""
        archive, raw = self._places.get(name, (None, name))
        try:
            return archive.read(raw) if archive else (self.path / raw).read_bytes()
        except Exception as error:  # damaged and hostile archives make their readers raise almost anything
            where, link = self.where(name), self.path / raw
            if not archive and link.is_symlink():
                target = readable(os.readlink(link))
                raise UserError(f"{where} is a link to {target}, which cannot be read: get that file first") from error
            # RuntimeError: an encrypted member, or a compression that zipfile does not know.
            remedy = "unpack the archive yourself" if isinstance(error, RuntimeError) else "download it again"
            raise UserError(f"{where} cannot be read ({said(error)}): {remedy}") from error

    def where(self, name: str) -> str:
        """Returns the file's path for messages."""
        archive, _ = self._places.get(name, (None, name))
        return str((archive.path if archive else self.path) / name)


def readable(name: str) -> str:
    """Returns a name that can be printed and compared: in NFC, with bytes that are no UTF-8 as "\\xc4"."""
    if name.isascii() and name.isprintable():
        return name
    text = unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _by_readable_name(names: Iterable[str]) -> dict[str, str]:
    """Readable name -> name, of all files that are not hidden."""
    shown = {name for name in names if not any(map(_hidden, name.split("/")))}
    found: dict[str, str] = {}
    for name in sorted(shown):
        # If names only differ in their Unicode form, each keeps its own.
        taken = readable(name) in shown or readable(name) in found
        found[name if taken else readable(name)] = name
    return found


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.casefold()


def _files_below(folder: str | Path, prefix: str = "", around: tuple[str, ...] = ()) -> Iterator[str]:
    """Lists files by relative name; links are followed, except to a folder that contains them.

    Links that lead nowhere count as files, so that reading them fails.
    """
    here = os.path.realpath(folder)
    if here in around:
        return
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not _hidden(entry.name)]
        folders = [entry for entry in shown if entry.is_dir()]
        yield from (prefix + entry.name for entry in shown if entry.is_file() or _leads_nowhere(entry))
    except OSError as error:
        raise UserError(
            f"{readable(str(folder))} cannot be listed ({error.strerror}): make it readable or remove it"
        ) from error
    for entry in folders:
        yield from _files_below(entry.path, f"{prefix}{entry.name}/", (*around, here))


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _hidden(part: str) -> bool:
    return part.startswith(HIDDEN)
