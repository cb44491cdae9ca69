"""A readable last line where one process of several ends without Python's knowing.

When a process of a run dies, JAX's runtime ends every other one within the heartbeat, by SIGABRT and from a thread of
its own: a stack trace of C++ would be the last that is seen. A small process waits for that and says what it means.
"""

import subprocess
import sys

WATCHER = "import sys; sys.stdin.buffer.read(1) or sys.exit(sys.argv[1])"
_watcher: subprocess.Popen | None = None


def prepare(process: int, count: int) -> None:
    """The end of this process of several is told on stderr, until `unneeded`; a lone one has no others to lose."""
    global _watcher
    if count == 1:
        return
    line = (
        f"error: process {process} of {count} ended because another one has died or no longer answers, or was "
        "killed itself (the lines above may say more): run the same command on every host again, and training goes on "
        "from the newest whole checkpoint"
    )
    # A session of its own: it outlives what a Ctrl-C is sent to.
    command = [sys.executable, "-S", "-E", "-c", WATCHER, line]
    _watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def unneeded() -> None:
    """This process ends by itself, or has said why it does not."""
    global _watcher
    if _watcher:
        _watcher.communicate(b".")
        _watcher = None
