"""Temporary files and folders of processes that were killed: how they are named, and when they may be removed."""

import hashlib
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

# Seconds without a change after which a file or folder counts as abandoned: its writer may be another
# machine's process, which cannot be looked up here.
ABANDONED_SECONDS = 24 * 3600
NAME = re.compile(r"\.(?:([0-9a-f]{8})-)?(\d{1,10})-[0-9a-f]{8}\.tmp")


def temporary_name() -> str:
    """A hidden name that is unique to this writer, says who it is, and is short enough for any file system."""
    return f".{_here()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


@cache  # once for each folder, since predictions write thousands of files to one
def remove_files(folder: Path) -> None:
    """Removes the temporary files of a folder whose writer was killed."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = NAME.fullmatch(path.name)
            if match and (_is_gone(match[1], int(match[2])) or _is_old(path)):
                path.unlink()


def remove_folders(folder: Path, pattern: str) -> None:
    """Removes the folders of this pattern in which nothing has changed for long."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink() and all(map(_is_old, (path, *path.rglob("*")))):
                shutil.rmtree(path)


@cache
def _here() -> str:
    """Names the set of processes to which a process number belongs: this boot of this machine or container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return hashlib.sha256(f"{boot}{os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]
    except OSError:
        return secrets.token_hex(4)  # then only the age counts


def _is_gone(where: str | None, process: int) -> bool:
    """Whether a process of this machine has ended."""
    if where != _here():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _is_old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > ABANDONED_SECONDS
