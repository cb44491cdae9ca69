"""Paths on local disks and in object stores, and writing so that nothing half-written is ever taken for whole."""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from cpnet_jax.errors import UserError

# Object stores, by what their URLs begin with. Checkpoints reach no other: Orbax and TensorStore know only this one.
STORES = ("gs",)


def as_path(name: str | os.PathLike[str]) -> Path:
    """A pathlib.Path, ~ expanded; for a URL, gs://BUCKET/NAME for instance, an etils path, which is used like one.

    Raises:
      UserError: on the home folder of nobody, a URL of an unknown kind, or one that needs a package which is not
        installed.
    """
    name = os.fspath(name)
    if not is_remote(name):
        try:
            return Path(name).expanduser()
        except RuntimeError as error:
            raise UserError(f"{name} is in no home folder that there is: write the path in full") from error
    store = name.partition("://")[0]
    if store not in STORES:
        raise UserError(f"{name} is a URL of no known kind: give gs://BUCKET/FOLDER, or mount it as a local folder")
    path = epath.Path(name)
    try:
        path.exists()
    except ImportError as error:
        raise UserError(f"{name} needs gcsfs, which is not installed: pip install 'cpnet-jax[gcs]'") from error
    except Exception as error:  # every store has its own
        raise UserError(
            f"{name} cannot be reached ({type(error).__name__}: {_first_line(error)}): check the name, and that this "
            "machine has credentials for it"
        ) from error
    return path


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether it is in an object store: there are no folders to make there, and nothing can be renamed."""
    return "://" in os.fspath(path)


def size(path: Path) -> int:
    """Of a file, in bytes."""
    return epath.Path(path).stat().length


def make_folder(path: Path, flag: str) -> None:
    """Makes the folder that a flag or field names; UserError where that cannot be, or nothing can be written there."""
    if is_remote(path):
        _try_to_write(path, flag)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{flag} is {path}, which cannot be written to ({error.strerror}): name another") from error


def _try_to_write(path: Path, flag: str) -> None:
    # A name of its own for every process that tries.
    with tempfile.NamedTemporaryFile() as named:
        trial = path / f".{Path(named.name).name}"
    try:
        trial.write_bytes(b"trial")
        trial.unlink()
    except Exception as error:  # every store has its own
        raise UserError(
            f"{flag} is {path}, which cannot be written to ({type(error).__name__}: {_first_line(error)}): name another"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A local path to write to; what is there at the end takes the place of that one, after an error nothing does."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            # Object stores show an object when it is whole.
            with temporary.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this writer alone, and no longer than any name may be.
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replaces the file by indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
