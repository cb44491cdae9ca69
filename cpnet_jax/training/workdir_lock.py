"""A lock that lets only one run use a workdir."""

import errno
import fcntl
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, processes
from cpnet_jax.runtime.files import AnyPath

NAME = "lock"
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOENT}


@contextmanager
def locked(workdir: AnyPath) -> Iterator[None]:
    """Holds DIR/lock; process 0 takes it for all. The kernel releases it when that process ends in any way.

    On a file system without locks a warning is printed.

    Raises:
      UserError: on every process, if another run holds the lock, or the file cannot be written; the message names the
        other run's host and process.
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


def _take(path: AnyPath) -> tuple[int | None, str | None]:
    """Takes the lock; returns (its descriptor, the reason if it cannot be taken)."""
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor, f"{path} is not a regular file: move it away, then run the same command again"
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
    except BlockingIOError:
        used = f"{path.parent} is in use by another run{_holder(path)}"
        return descriptor, f"{used}: stop that run, or name another --workdir"
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            return descriptor, (
                f"{path} cannot be written ({error.strerror}): free space, fix permissions or move it away, then run "
                "the same command again"
            )
        print(
            f"Note: {path.parent} has no locks ({error.strerror}): make sure that no second run starts there",
            file=sys.stderr,
        )
    return descriptor, None


def _holder(path: AnyPath) -> str:
    """The run that holds the lock, for messages; empty if the file does not say."""
    try:
        found = files.parse_json(path.read_bytes())
        return f", process {int(found['pid'])} on {str(found['host'])[:100]}"
    except (OSError, ValueError, LookupError, TypeError, OverflowError):  # the other run is just taking the lock
        return ""
