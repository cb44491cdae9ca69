"""A short run of the real program, small enough to be started and interrupted many times."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from whole_program import command

from cpnet_jax.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
STEPS = 12
CHECKPOINT_EVERY = 2
FIELDS = {"eval_every": 0, "checkpoint_every": CHECKPOINT_EVERY, "eval.pictures": 0}


class Run:
    """A process of the program; a context manager that kills it at the end."""

    def __init__(
        self,
        folder,
        workdir,
        *flags,
        program=("tests/small_main.py",),
        mode="train",
        stdout=None,
        umask=-1,
        environment=(),
        **fields,
    ):
        overrides = [f"--config.{name}={value}" for name, value in (FIELDS | fields).items()]
        _, _, *arguments = command(folder, workdir, *overrides, *flags, mode=mode)
        self.workdir = Path(workdir)
        self._output = (folder / f"output_{time.monotonic_ns()}").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, *map(str, [*program, *arguments])],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **dict(environment)},
            stdout=stdout or self._output,
            stderr=self._output,
            umask=umask,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._output.close()

    def until(self, happened, *, seconds=240):
        """Waits until it happened; False if the program ends first."""
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, self.output()
            if self.process.poll() is not None:
                return False
            time.sleep(0.005)
        return True

    def until_trained(self, steps):
        """Waits until this process has taken this number of steps."""
        return self.until(
            lambda: self.resumed_at() is not None and logged_steps(self.workdir) >= self.resumed_at() + steps
        )

    def until_some_moment(self, rng):
        """Waits until a random moment: during start-up (one time in five), or during its first steps."""
        steps = rng.integers(0, 5)
        if steps:
            self.until_trained(steps)
        time.sleep(rng.uniform(0, 0.4) if steps else rng.uniform(2, 8))
        return self.process.poll() is None

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.process.wait()

    def status(self, seconds=240):
        """Waits for the exit status; 128 + n if signal n ended the program."""
        status = self.process.wait(timeout=seconds)
        return status if status >= 0 else 128 - status

    def output(self):
        """Standard output and standard error so far."""
        return Path(self._output.name).read_text()

    def assert_refused(self, *words):
        """Checks that the program exits with 2 and one error line that has these words."""
        assert self.status() == 2, self.output()
        assert "Traceback" not in self.output(), self.output()
        [line] = self.errors()
        assert all(str(word) in line for word in words), line

    def errors(self):
        return [line for line in self.output().splitlines() if line.startswith("error: ")]

    def resumed_at(self):
        """The step from which it resumed, 0 if it started from the beginning, None if it printed neither."""
        if match := re.search(r"resuming at step (\d+)", self.output()):
            return int(match[1])
        return 0 if "training for" in self.output() else None


def logged_steps(workdir):
    try:
        return (Path(workdir) / "metrics.jsonl").read_text().count('"loss"')
    except OSError:
        return 0


def checkpoint_steps(workdir):
    with Checkpoints(Path(workdir) / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.steps()


def final_state(workdir):
    """Returns step and state of the newest checkpoint."""
    with Checkpoints(Path(workdir) / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest()
        return step, checkpoints.restore_as_saved(step)


def assert_as_uninterrupted(workdir, reference):
    """Compares parameters, statistics, optimiser state and keys bit for bit."""
    step, state = final_state(workdir)
    assert step == STEPS
    jax.tree.map(np.testing.assert_array_equal, state, reference)
