"""Raw files where users have them: in folders, or still in the zip archives they were downloaded as."""

import fnmatch
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from cpnet_jax.errors import UserError


class Source:
    """The files below one folder, or in one zip archive, read in place; names are relative and use "/".

    Args:
      path: a folder or a .zip file.

    Raises:
      UserError: where there is neither, or the archive is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir() and not path.is_file():
            raise UserError(f"config.data.source is {path}, which does not exist: name a folder or a zip archive")
        self._archive: zipfile.ZipFile | None = None
        if path.is_file():
            try:
                self._archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"config.data.source is {path}, which is no whole zip archive ({error})") from error

    @cached_property
    def names(self) -> list[str]:
        """Of all files, sorted; hidden ones and what macOS adds to archives left out."""
        if self._archive:
            found = [info.filename for info in self._archive.infolist() if not info.is_dir()]
        else:
            found = [file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file()]
        return sorted(name for name in found if not _hidden(name))

    def glob(self, pattern: str) -> list[str]:
        """Names that match, `*` also across "/"."""
        return fnmatch.filter(self.names, pattern)

    def read(self, name: str) -> bytes:
        """The file's bytes; UserError where an archive's member fails its checksum or the file cannot be read."""
        try:
            return self._archive.read(name) if self._archive else (self.path / name).read_bytes()
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise UserError(f"{self.where(name)} cannot be read ({error}): fetch it again") from error

    def where(self, name: str) -> str:
        """How a message names the file."""
        return str(self.path / name)


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def common_root(source: Source, markers: Sequence[str]) -> str | None:
    """The prefix ("" or "folder/") below which all the marker paths lie, so that a user may name the folder itself or
    the one around it; None where there is none."""
    prefixes = {""} | {f"{PurePosixPath(name).parts[0]}/" for name in source.names if "/" in name}
    for prefix in sorted(prefixes):
        if all(any(name.startswith(prefix + marker) for name in source.names) for marker in markers):
            return prefix
    return None
