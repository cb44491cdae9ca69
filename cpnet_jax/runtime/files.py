"""Paths on local disks and in object stores, and atomic writes."""

import errno
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import leftovers

# A path on a local disk, or in an object store. epath.Path has the methods of pathlib.Path.
AnyPath = Path | epath.Path
# URL schemes of object stores. Checkpoints support no other, because Orbax and TensorStore do not.
STORES = ("gs",)


def as_path(name: str | os.PathLike[str]) -> AnyPath:
    """Converts a name to a pathlib.Path with ~ expanded, or a URL such as gs://BUCKET/NAME to an etils path.

    Raises:
      UserError: if the home folder or the kind of URL is unknown, the store cannot be reached, or a package is missing.
    """
    name = os.fspath(name)
    if not is_remote(name):
        return as_local_path(name)
    store = name.partition("://")[0]
    if store not in STORES:
        raise UserError(f"{name} has an unsupported URL scheme: give gs://BUCKET/FOLDER, or mount it as a local folder")
    path: Any = epath.Path(name)
    try:
        path.exists()
    except ImportError as error:
        raise UserError(f"{name} needs the package gcsfs, which is not installed: run `pip install gcsfs`") from error
    except Exception as error:  # every store raises its own type
        raise UserError(
            f"{name} cannot be reached ({type(error).__name__}: {_first_line(error)}): check the name, and that this "
            "machine has credentials for it"
        ) from error
    return path


def as_local_path(name: str | os.PathLike[str]) -> Path:
    """Converts a name to a pathlib.Path with ~ expanded. Raises UserError if the home folder does not exist."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} names a home folder that does not exist: write the full path") from error


def check_is_unicode(path: AnyPath, flag: str) -> None:
    """Raises UserError if the absolute path has bytes that are no characters: TensorStore and ArrayRecord need them."""
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        try:
            os.fsencode(name).decode()
            advice = "set PYTHONUTF8=1, since this locale has only ASCII characters"
        except UnicodeDecodeError:
            advice = "name another folder"
        raise UserError(f"{flag} is {path}, whose full name is not text in UTF-8: {advice}") from error


def check_is_no_pattern(path: AnyPath, flag: str) -> None:
    """Raises UserError if the absolute path looks like a pattern: Orbax would look for its own files elsewhere."""
    if glob.has_magic(str(path) if is_remote(path) else os.path.abspath(path)):
        raise UserError(f"{flag} is {path}, whose full name has *, ? or [: use a folder without these characters")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether the path is in an object store, which has no folders to make and no renaming."""
    return "://" in os.fspath(path)


def size(path: AnyPath) -> int:
    """Size of a file in bytes."""
    if is_remote(path):
        return epath.Path(path).stat().length
    return os.path.getsize(path)  # etils would also look up the owner's name, which may not exist


def make_folder(path: AnyPath, flag: str) -> None:
    """Makes the folder that a flag or field names. Raises UserError if it cannot be made or written to."""
    if is_remote(path):
        _try_to_write(path, flag)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{flag} is {path}, which is not writable ({error.strerror}): name another folder") from error


def make_cache(path: AnyPath, field: str) -> bool:
    """Makes the folder of a cache that a field names; if it cannot be written to, prints a note and returns False."""
    try:
        make_folder(path, field)
    except UserError as error:
        print(f"Note: {error}, or, if it is below your home, set HOME. Nothing new is kept there.", file=sys.stderr)
        return False
    return True


def _try_to_write(path: AnyPath, flag: str) -> None:
    # A different name for every process.
    with tempfile.NamedTemporaryFile() as named:
        trial = path / f".{Path(named.name).name}"
    try:
        trial.write_bytes(b"trial")
        trial.unlink()
    except Exception as error:  # every store raises its own type
        raise UserError(
            f"{flag} is {path}, which is not writable ({type(error).__name__}: {_first_line(error)}): name another "
            "folder"
        ) from error


@contextmanager
def replacing(path: AnyPath) -> Iterator[AnyPath]:
    """Yields a local path to write to; if no error is raised, that file then replaces `path` in one step."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            # Object stores show an object only when it is complete.
            with store_errors(path), temporary.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    leftovers.remove_files(Path(path.parent))
    temporary = path.with_name(leftovers.temporary_name())
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            # Name the file that the user knows.
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def store_errors(path: AnyPath) -> Iterator[None]:
    """Turns every error of an object store into an OSError: each store raises its own types."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {_first_line(error)}", str(path)) from error


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Writes a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: AnyPath, text: str) -> None:
    """Writes a text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: AnyPath, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """Parses JSON that others may have written; raises ValueError if it is faulty, or too deep for Python's parser."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it has too many levels of brackets") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
