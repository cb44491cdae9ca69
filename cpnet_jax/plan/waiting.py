"""Waits for a process that reports no progress, and shows the elapsed time."""

import subprocess
import sys
import time

from tqdm import tqdm

from cpnet_jax.runtime.progress import on_terminal

# Interval between lines if there is no terminal.
QUIET_SECONDS = 60.0


def wait(process: subprocess.Popen, what: str, *, expected: float | None, note: str) -> None:
    """Waits until the process ends and shows the elapsed time.

    Args:
      what: the process does, for the line shown.
      expected: duration in seconds; None if unknown.
      note: text at the end of the line.
    """
    start = last_line = time.monotonic()
    with tqdm(desc=what, bar_format="{desc} {postfix}", dynamic_ncols=True, disable=not on_terminal()) as line:
        while True:
            try:
                process.wait(timeout=1)
                return
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            text = _elapsed(now - start, expected) + note
            line.set_postfix_str(text)
            if not on_terminal() and now - last_line >= QUIET_SECONDS:
                last_line = now
                print(f"{what} {text}", file=sys.stderr, flush=True)


def _elapsed(seconds: float, expected: float | None) -> str:
    so_far = f"for {tqdm.format_interval(seconds)}"
    return (
        f"{so_far} of about {tqdm.format_interval(expected)}"
        if expected
        else f"{so_far}; a whole network takes minutes"
    )
