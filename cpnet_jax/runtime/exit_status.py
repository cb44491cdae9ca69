"""How the program ends: every exception as one sentence and an exit status, or as the defect of ours that it is."""

import atexit
import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from cpnet_jax.errors import Stopped, UserError, WriteFailed
from cpnet_jax.runtime import watchdog

PEER_LOST = 69  # EX_UNAVAILABLE
# What a file system may answer that is nobody's mistake here.
OF_THE_FILE_SYSTEM = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENODEV,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTCONN,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
}


def run(program: Callable[[], None]) -> NoReturn:
    """Runs it and exits, saying on stderr what went wrong."""
    atexit.register(watchdog.unneeded)  # before JAX registers its own end: what is registered first comes last
    try:
        try:
            program()
            status = 0
        except SystemExit as exit_:  # absl's, at every end
            status = exit_.code
        sys.stdout.flush()
    except Stopped as stopped:
        status = _said(str(stopped), stopped.exit_status)
    except WriteFailed as error:
        at_once(_said(f"error: {error}", error.exit_status))  # its threads may wait for each other, for minutes
    except UserError as error:
        status = _said(f"error: {error}", error.exit_status)
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in OF_THE_FILE_SYSTEM:
            raise
        where = error.filename or "standard output or a file"
        status = _said(
            f"error: {where} cannot be written or read ({error.strerror}): see to that disk, and run the same command "
            "again",
            UserError.exit_status,
        )
    except Exception as error:
        from cpnet_jax.runtime import processes  # not above: it takes JAX a second to be imported

        if not processes.is_lost_peer(error):
            raise
        # An orderly end would wait for the one that is gone. `watchdog` comes after what the runtime says now.
        os._exit(PEER_LOST)
    _forget_unwritten_output()
    sys.exit(status)


def at_once(status: int) -> NoReturn:
    """Ends without Python's way out, which waits for threads, and which JAX does not survive in a compilation."""
    watchdog.unneeded()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _said(line: str, status: int) -> int:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return status


def _forget_unwritten_output() -> None:
    """Python would try once more when it exits, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
