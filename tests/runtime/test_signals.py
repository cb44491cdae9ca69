"""A closed terminal asks for a stop, and printing to it fails no more."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Prints until it is asked to stop, then writes to the file that it "saves".
PROGRAM = """
import sys, time
from cpnet_jax.runtime.signals import Stop
stop = Stop()
stop.listen()
stop.expect_training()
stop.step_taken()
stop.requested(0)
open(sys.argv[1], "w").write("training")
for step in range(600):
    if stop.requested(step):
        break
    time.sleep(0.05)
print("saving", flush=True)
print("saving", file=sys.stderr, flush=True)
open(sys.argv[1], "w").write("saved" if step < 599 else "finished")
"""


def until(file, content):
    end = time.monotonic() + 60
    while time.monotonic() < end and not (file.exists() and file.read_text() == content):
        time.sleep(0.02)
    assert file.read_text() == content


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.long
def test_a_closed_terminal_lets_the_run_save(tmp_path, environment):
    file = tmp_path / "file"
    child, terminal = pty.fork()
    if not child:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup ignore it, and the program would inherit that
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM, str(file)])
    until(file, "training")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert file.read_text() == "saved"


def test_nohup_is_respected(tmp_path, environment):
    file = tmp_path / "file"
    with subprocess.Popen(["nohup", sys.executable, "-c", PROGRAM, str(file)]) as run:
        until(file, "training")
        run.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert run.poll() is None and file.read_text() == "training"
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 0
    assert file.read_text() == "saved"
