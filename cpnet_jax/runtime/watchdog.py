"""Watchdog: prints a readable last line if this process of a run is killed.

When one process of a run dies, JAX's runtime kills the others with SIGABRT from a thread, and a C++ stack trace would
be the last output. A small child process waits for that and explains it.
"""

import subprocess
import sys
import threading

WATCHER = "import sys; sys.stdin.buffer.read(1) or sys.exit(sys.argv[1])"
_watcher: subprocess.Popen | None = None
# A signal may make it unneeded while it is being started. Reentrant, since that may happen in the same thread.
_changing = threading.RLock()


def start(process: int, count: int) -> None:
    """Starts the watchdog; `unneeded` stops it. A run with one process has none."""
    global _watcher
    if count == 1:
        return
    line = (
        f"error: process {process} of {count} ended because another process died or stopped responding, or because it "
        "was killed (see the lines above): run the same command on every host again to continue from the newest "
        "checkpoint"
    )
    # A separate session, so that Ctrl-C does not end it.
    command = [sys.executable, "-S", "-E", "-c", WATCHER, line]
    with _changing:
        _watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def unneeded() -> None:
    """Stops the watchdog: this process ends by itself, or has explained why it ends."""
    global _watcher
    with _changing:
        if _watcher:
            _watcher.communicate(b".")
            _watcher = None
