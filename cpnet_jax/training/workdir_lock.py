"""One run a workdir."""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import processes

NAME = "lock"
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOENT}


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds DIR/lock, by process 0 for all. The kernel lets go of it when that process ends, however it ends.

    A file system without locks is told of, and no obstacle.

    Raises:
      UserError: on every process, where another run holds it; it names that one's host and process.
    """
    descriptor, refusal = _take(workdir / NAME) if processes.is_main_process() else (None, None)
    try:
        refusal = processes.gather(refusal)[0]
        if refusal:
            raise UserError(refusal)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take(path: Path) -> tuple[int | None, str | None]:
    """(descriptor of the lock that is held now, why it cannot be held)."""
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None, f"{path.parent} is in use by another run{_holder(path)}: stop that one, or name another --workdir"
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        print(
            f"{path.parent} has no locks ({error.strerror}): see to it that no second run is started there",
            file=sys.stderr,
        )
        return descriptor, None
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
    return descriptor, None


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f", process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError):  # it has only just taken the lock
        return ""
