"""Waiting for a process that tells nothing of its progress."""

import subprocess
import sys
import time

from tqdm import tqdm

from cpnet_jax.runtime.progress import on_terminal

# Without a terminal, one line about every so many seconds.
QUIET_SECONDS = 60.0


def wait(process: subprocess.Popen, what: str, *, expected: float | None, note: str) -> None:
    """Until it has ended; shows the time it takes.

    Args:
      what: it does.
      expected: seconds that it will probably take, if that is known.
      note: shown behind.
    """
    start = last_line = time.monotonic()
    with tqdm(desc=what, bar_format="{desc} {postfix}", dynamic_ncols=True, disable=not on_terminal()) as line:
        while True:
            try:
                process.wait(timeout=1)
                return
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            said = _elapsed(now - start, expected) + note
            line.set_postfix_str(said)
            if not on_terminal() and now - last_line >= QUIET_SECONDS:
                last_line = now
                print(f"{what} {said}", file=sys.stderr, flush=True)


def _elapsed(seconds: float, expected: float | None) -> str:
    so_far = f"for {tqdm.format_interval(seconds)}"
    return (
        f"{so_far} of about {tqdm.format_interval(expected)}" if expected else f"{so_far}, minutes for a whole network"
    )
