"""Worker processes end with their stream, and what stops them stops it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import jax
import pytest
from training_streams import training

from cpnet_jax.errors import WorkerDied


def test_a_killed_worker_stops_the_stream_at_once_with_one_line():
    with training(workers=2, threads=1) as batches:
        next(batches)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(WorkerDied, match=r"worker process .* exit code -9") as caught:
            list(islice(batches, 50))
        assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value) and caught.value.exit_status not in (0, 1, 2, 3)


def test_no_worker_outlives_a_killed_process(tmp_path):
    code = """
import multiprocessing, os, signal
import training_streams
if __name__ == "__main__":
    batches = training_streams.training(workers=1, threads=1)
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    program = tmp_path / "program.py"
    program.write_text(code)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    killed = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    status = Path(f"/proc/{int(killed.stdout)}/stat")
    deadline = time.monotonic() + 10
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_closing_frees_shared_memory():
    before = set(Path("/dev/shm").glob("psm_*"))
    with training(workers=1, threads=1) as batches:
        kept = [jax.device_put(batch["image"]) for batch in islice(batches, 5)]
        made = set(Path("/dev/shm").glob("psm_*")) - before  # some may be of other tests, which close theirs as well
        assert made
    deadline = time.monotonic() + 60
    while made & set(Path("/dev/shm").glob("psm_*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(kept) == 5
