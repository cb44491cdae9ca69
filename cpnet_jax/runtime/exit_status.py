"""Maps exceptions to a one-line message and an exit status; a defect of this program keeps its traceback."""

import atexit
import errno
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from cpnet_jax.errors import Stopped, UserError, WriteFailed, shortened
from cpnet_jax.runtime import background, standard_streams, watchdog

PEER_LOST = 69  # EX_UNAVAILABLE
# How long a process that failed waits for the others. They end at the same time if they failed alike; if it failed
# alone, they wait for it.
SECONDS_TO_LEAVE = 30
LONGEST_LINE = 4000  # characters
# Exit status -> meaning, for --help.
MEANINGS = {
    "0": "done",
    "1": "a defect of this program, with a traceback",
    "2": "a mistake in the config, the flags or the data, or a disk that cannot be written",
    "3": "a non-finite loss or gradient; the state before it is saved",
    "4": "a worker process of the input pipeline died; run the same command again",
    "69, 134": "another process of the run died; run the same command on every host again",
    "75": "stopped by request with all steps saved; run the same command again",
    "129, 130, 143": "stopped at once by a closed terminal, Ctrl-C or SIGTERM",
    "141": "the reader of the output has exited, as with `| head`",
}
# Errors that a file system may report without a defect of this program.
FILE_SYSTEM_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENODEV,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTCONN,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
}


def run(program: Callable[[], None]) -> NoReturn:
    """Runs the program and exits; prints on stderr what went wrong."""
    atexit.register(watchdog.unneeded)  # before JAX registers its exit handler: the first one registered runs last
    try:
        status = _status(program)
        if status and status != Stopped.exit_status:
            _leave_soon(1 if isinstance(status, str) else status)
    except Exception:
        _leave_soon(1)
        if not background.busy():
            raise
        traceback.print_exc()
        status = 1
    _forget_unwritten_output()
    if background.busy() and not isinstance(status, str):
        from cpnet_jax.runtime import distributed

        distributed.leave()
        at_once(status or 0)
    sys.exit(status)


def _status(program: Callable[[], None]) -> int | str | None:
    """Runs the program; its exit status. A defect raises its exception."""
    try:
        try:
            program()
            status = 0
        except SystemExit as exit_:  # absl raises it at every end
            status = exit_.code
        sys.stdout.flush()
        return status
    except Stopped as stopped:
        return _print_error(str(stopped), stopped.exit_status)
    except WriteFailed as error:
        at_once(_print_error(f"error: {error}", error.exit_status))  # its threads may wait for each other for minutes
    except UserError as error:
        return _print_error(f"error: {error}", error.exit_status)
    except BrokenPipeError:  # the reader of the output has exited, as `head` does
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in FILE_SYSTEM_ERRORS:
            raise
        where = error.filename or "standard output or a file"
        return _print_error(
            f"error: {where} cannot be written or read ({error.strerror}): free space, fix permissions, move away "
            "what is there or name another path, then run the same command again",
            UserError.exit_status,
        )
    except Exception as error:
        from cpnet_jax.runtime import processes  # imported here because JAX takes a second to import

        if not processes.is_lost_peer(error):
            raise
        # A normal exit would wait for the process that died. The watchdog prints the last line.
        os._exit(PEER_LOST)


def _leave_soon(status: int) -> None:
    """Ends a process of several within SECONDS_TO_LEAVE; JAX would wait 300 s for the others."""
    jax = sys.modules.get("jax")  # a mistake in a flag is reported before JAX is imported
    if not jax or not jax.distributed.is_initialized():
        return
    timer = threading.Timer(SECONDS_TO_LEAVE, at_once, [status])
    timer.daemon = True
    timer.start()


def at_once(status: int) -> NoReturn:
    """Exits without Python's shutdown, which waits for threads and crashes JAX during a compilation."""
    watchdog.unneeded()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _print_error(line: str, status: int) -> int:
    """Prints one line, whatever the names in it contain, and however long they are."""
    with suppress(OSError):
        print(shortened(standard_streams.one_line(line), LONGEST_LINE), file=sys.stderr, flush=True)
    return status


def _forget_unwritten_output() -> None:
    """Drops unwritten output, because Python would try to write it again at exit and print an error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
