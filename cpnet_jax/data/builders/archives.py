"""Reads files of zip and tar archives in place; nothing is ever written by a name that an archive gives."""

import bz2
import contextlib
import lzma
import os
import posixpath
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from cpnet_jax.data.builders.gzip_file import GzipFile
from cpnet_jax.errors import UserError, said

# First bytes of compressed files.
GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
UTF8_NAME = 0x800  # flag of zip members whose name is stored as UTF-8
BLOCK = tarfile.BLOCKSIZE


@runtime_checkable
class Archive(Protocol):
    """An archive that several threads may read at once.

    Attributes:
      path: the archive.
      names: names of its files, relative and with "/".
    """

    path: Path

    @property
    def names(self) -> Collection[str]: ...

    def read(self, name: str) -> bytes:
        """Reads a file; raises an exception of any type if it is damaged."""
        ...


def is_archive(name: str) -> bool:
    """Returns whether a file is an archive by its ending."""
    return name.lower().endswith(ENDINGS)


def open_archive(path: Path) -> Archive:
    """Opens a zip or tar archive, whatever its ending; raises UserError if it is neither, or damaged."""
    kind = ""
    try:
        with path.open("rb") as file:
            kind = _kind(file)
        return _OPEN[kind](path)
    except UserError:
        raise
    except Exception as error:  # hostile and damaged archives make zipfile and tarfile raise almost anything
        what = f"{path}, which config.data.source names or contains,"
        if "span multiple disks" in str(error):
            raise UserError(
                f"{what} is the last part of a split archive: join its parts with `zip -s 0 {path.name} --out "
                "whole.zip` and keep only whole.zip"
            ) from error
        if not kind:
            raise UserError(
                f"{what} is neither a zip nor a tar archive: unpack it and name its folder, or remove it"
            ) from error
        fault = said(error) or type(error).__name__
        raise UserError(f"{what} is not a complete {kind} archive ({fault}): download it again or remove it") from error


def _kind(file: IO[bytes]) -> str:
    """Returns "zip", "tar", "compressed tar" or ""."""
    start = file.read(BLOCK)
    if start.startswith((GZIP, BZIP2, XZ)):
        return "compressed tar"
    if start[257:262] == b"ustar":
        return "tar"
    if start.startswith(b"PK") or zipfile.is_zipfile(file) or str(file.name).lower().endswith(".zip"):
        return "zip"
    return "tar" if str(file.name).lower().endswith(".tar") else ""


def is_unpacked(path: Path, unpacked: Collection[str]) -> bool:
    """Returns whether the first file of a compressed tar archive is among the unpacked files.

    People keep archives beside what they unpacked from them, and decompressing one takes long.
    """
    try:
        with path.open("rb") as file:
            if _kind(file) != "compressed tar":
                return False
        with tarfile.open(path, "r|*") as tar:
            first = next((member.name for member in tar if member.isreg()), "")
    except Exception:  # `open_archive` says what is wrong
        return False
    return _relative(first) in unpacked


class ZipArchive:
    """See `Archive`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        self._lock = threading.Lock()
        names = ((_zip_name(info), info) for info in self._zip.infolist())
        self._members = {_relative(name): info for name, info in names if not name.endswith("/")}

    @property
    def names(self) -> Collection[str]:
        return self._members.keys()

    def read(self, name: str) -> bytes:
        # ZipFile locks its reads, but not its count of open members, by which it decides when to close its file.
        with self._lock:
            member = self._zip.open(self._members[name])
        try:
            return member.read()
        finally:
            with self._lock:
                member.close()


def _zip_name(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & UTF8_NAME:
        # macOS stores UTF-8 without saying so; what zipfile made of it is undone.
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")  # as some Windows tools separate folders


class TarArchive:
    """A tar archive, see `Archive`. Links are followed to files of the same archive only.

    Args:
      path: the archive.
      tar: its members, which are listed once.
      read_at: size, offset -> that many bytes of the uncompressed archive; has no file position that threads would
        share.
    """

    def __init__(self, path: Path, tar: tarfile.TarFile, read_at: Callable[[int, int], bytes]) -> None:
        self.path, self._read_at = path, read_at
        self._places: dict[str, tuple[int, int]] = {}  # name -> offset, size
        links = {}
        for member in tar:
            name = _relative(member.name)
            if member.issparse():
                raise ValueError(f"{member.name} is stored as a sparse file, which is not read")
            if member.isreg():
                self._places[name] = (member.offset_data, member.size)
            elif member.islnk():
                links[name] = _relative(member.linkname)
            elif member.issym():
                links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        self._places |= {name: self._places[target] for name, target in links.items() if target in self._places}

    @property
    def names(self) -> Collection[str]:
        return self._places.keys()

    def read(self, name: str) -> bytes:
        offset, size = self._places[name]
        return self._read_at(size, offset)


def _open_plain(path: Path, file: IO[bytes] | None = None) -> TarArchive:
    """Opens a tar archive that is not compressed, or the file that it was decompressed into."""
    file = file or path.open("rb")

    def read_at(size: int, offset: int) -> bytes:
        return os.pread(file.fileno(), size, offset)

    with tarfile.open(fileobj=file, mode="r:") as tar:
        archive = TarArchive(path, tar, read_at)
        _check_end(tar, read_at)
    return archive


def _open_gzipped(path: Path) -> TarArchive:
    content = GzipFile(path)
    with tarfile.open(fileobj=content, mode="r|", bufsize=2**18) as tar:  # pyrefly: ignore[no-matching-overload]
        archive = TarArchive(path, tar, content.read_at)
        content.finish_first_pass()
        _check_end(tar, content.read_at)
    return archive


def _check_end(tar: tarfile.TarFile, read_at: Callable[[int, int], bytes]) -> None:
    """Raises EOFError if the members that were listed are not all: tarfile stops at a damaged header without a word."""
    if read_at(BLOCK, tar.offset) != bytes(BLOCK):
        raise EOFError("it is damaged or cut off")


@lru_cache(maxsize=16)
def _open_compressed(path: Path, stamp: tuple[int, int]) -> TarArchive:
    """Opens a compressed tar archive once in a process: it has no list of its files."""
    del stamp  # the archive's time and size: a changed one is opened again
    print(
        f"Note: {path} is read once before its files can be used: as a zip archive or a folder it would open at once",
        flush=True,
    )
    with path.open("rb") as packed:
        start = packed.read(BLOCK)
    return _open_gzipped(path) if start.startswith(GZIP) else _open_copy(path, bz2 if start.startswith(BZIP2) else lzma)


def _open_copy(path: Path, library: Any) -> TarArchive:
    """Opens a tar archive decompressed into a file without a name, which exists as long as this process does."""
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115  # stays open
    with library.open(path) as data:
        while block := data.read(2**20):
            try:
                unpacked.write(block)
            except OSError as error:
                raise UserError(
                    f"{tempfile.gettempdir()} cannot hold {path} decompressed ({error.strerror}): unpack it, or set "
                    "the environment variable TMPDIR to a folder with more space"
                ) from error
    unpacked.seek(0)
    return _open_plain(path, unpacked)


_OPEN: dict[str, Callable[[Path], Archive]] = {
    "zip": ZipArchive,
    "": ZipArchive,
    "tar": _open_plain,
    "compressed tar": lambda path: _open_compressed(path, (path.stat().st_mtime_ns, path.stat().st_size)),
}


def _relative(name: str) -> str:
    """Removes what only describes where the archive was made: "./images/a.png" and "/images/a.png" are images/a.png."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
