"""Writing files so that nothing half-written is ever taken for whole."""

import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpnet_jax.errors import UserError


def make_folder(path: Path, flag: str) -> None:
    """Makes the folder that a flag or field names; UserError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{flag} is {path}, which cannot be written to ({error.strerror}): name another") from error


def expanded(path: str, flag: str) -> Path:
    """With ~ as somebody's home; UserError where there is no such person."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{flag} is {path}, but there is no such home folder: write the path in full") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside that one to write to; what is there at the end takes its place, after an error nothing does."""
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
