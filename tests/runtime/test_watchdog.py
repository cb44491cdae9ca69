"""The watchdog prints the last line of a killed process, and nothing if the process ends by itself."""

import subprocess
import sys

import pytest

ENDS = {"abort": "os.abort()", "kill": "os.kill(os.getpid(), 9)", "by itself": "sys.exit(3)"}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("end", ENDS)
def test_the_watchdog_explains_only_the_end_of_a_killed_process_of_several(end, count):
    lines = (
        "import atexit, os, sys; from cpnet_jax.runtime import watchdog",
        "atexit.register(watchdog.unneeded)",
        f"watchdog.start(0, {count})",
        "print('at work', file=sys.stderr, flush=True)",
        ENDS[end],
    )
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert result.returncode != 0
    first, *rest = result.stderr.splitlines()
    assert first == "at work"
    explained = [line.startswith("error: process 0 of 2 ended because another process died") for line in rest]
    assert explained == [True] * (count == 2 and end != "by itself")


def test_a_watchdog_that_becomes_unneeded_while_it_starts_says_nothing():
    lines = (
        "import os, subprocess, threading, time; from cpnet_jax.runtime import watchdog",
        "start = subprocess.Popen",
        "watchdog.subprocess.Popen = lambda *a, **k: (start(*a, **k), begun.set(), time.sleep(0.3))[0]",
        "begun = threading.Event()",
        "threading.Thread(target=watchdog.start, args=(0, 2)).start()",
        "begun.wait(); watchdog.unneeded(); os._exit(0)",
    )
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stderr) == (0, "")
