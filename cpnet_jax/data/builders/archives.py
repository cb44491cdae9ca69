"""Reads files of zip and tar archives in place; nothing is ever written by a name that an archive gives."""

import bz2
import contextlib
import gzip
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

from cpnet_jax.errors import UserError

# First bytes of a compressed file -> how to open it.
DECOMPRESSORS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
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
                f"{what} is neither a zip nor a tar archive ({error}): unpack it and name its folder, or remove it"
            ) from error
        raise UserError(
            f"{what} is not a complete {kind} archive ({error or type(error).__name__}): download it again or remove it"
        ) from error


def _kind(file: IO[bytes]) -> str:
    """Returns "zip", "tar", "compressed tar" or ""."""
    start = file.read(BLOCK)
    if start.startswith(tuple(DECOMPRESSORS)):
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
    """A tar archive that is not compressed, see `Archive`. Links are followed to files of the same archive only."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file
        self._places: dict[str, tuple[int, int]] = {}  # name -> offset, size
        links = {}
        with tarfile.open(fileobj=file, mode="r:") as tar:
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
            # tarfile also stops at a damaged header, without a word.
            if os.pread(file.fileno(), BLOCK, tar.offset) != bytes(BLOCK):
                raise EOFError("it is damaged or cut off")
        self._places |= {name: self._places[target] for name, target in links.items() if target in self._places}

    @property
    def names(self) -> Collection[str]:
        return self._places.keys()

    def read(self, name: str) -> bytes:
        offset, size = self._places[name]
        return os.pread(self._file.fileno(), size, offset)  # has no file position that threads would share


@lru_cache(maxsize=16)
def _decompressed(path: Path, stamp: tuple[int, int]) -> TarArchive:
    """Decompresses a tar archive into a file without a name, which exists as long as this process does."""
    del stamp  # the archive's time and size: a changed one is decompressed again
    print(
        f"Note: {path} is decompressed whenever a run starts: unpack it and move it away to save that time", flush=True
    )
    with path.open("rb") as packed:
        start = packed.read(BLOCK)
    opener = next(opener for magic, opener in DECOMPRESSORS.items() if start.startswith(magic))
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115  # stays open
    with opener(path) as data:
        while block := data.read(2**20):
            try:
                unpacked.write(block)
            except OSError as error:
                raise UserError(
                    f"{tempfile.gettempdir()} cannot hold {path} decompressed ({error.strerror}): unpack it, or set "
                    "the environment variable TMPDIR to a folder with more space"
                ) from error
    unpacked.seek(0)
    return TarArchive(path, unpacked)


def _open_compressed(path: Path) -> TarArchive:
    status = path.stat()
    return _decompressed(path, (status.st_mtime_ns, status.st_size))


_OPEN: dict[str, Callable[[Path], Archive]] = {
    "zip": ZipArchive,
    "": ZipArchive,
    "tar": lambda path: TarArchive(path, path.open("rb")),
    "compressed tar": _open_compressed,
}


def _relative(name: str) -> str:
    """Removes what only describes where the archive was made: "./images/a.png" and "/images/a.png" are images/a.png."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
