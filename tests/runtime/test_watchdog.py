"""The end of a process of several is told after all else, but only where it was none of its own."""

import subprocess
import sys

import pytest

ENDS = {"abort": "os.abort()", "kill": "os.kill(os.getpid(), 9)", "by itself": "sys.exit(3)"}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("end", ENDS)
def test_only_a_process_of_several_that_was_ended_has_last_words(end, count):
    lines = (
        "import atexit, os, sys; from cpnet_jax import last_words",
        "atexit.register(last_words.unneeded)",
        f"last_words.prepare(0, {count})",
        "print('at work', file=sys.stderr, flush=True)",
        ENDS[end],
    )
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert result.returncode != 0
    first, *rest = result.stderr.splitlines()
    assert first == "at work"
    told = [line.startswith("error: process 0 of 2 ended because another one has died") for line in rest]
    assert told == [True] * (count == 2 and end != "by itself")
