"""Trains configs/camvid.py within a time limit, and evaluates it on CamVid's val and test splits.

    python benchmarks/camvid.py --minutes=5 --workdir=DIR --config.data.source=FOLDER [--config.FIELD=VALUE ...]

The run starts with the config's number of steps. Once the speed is known, a run that would not end in time is started
again with as many steps as fit, since the learning rate depends on the length. Afterwards the last checkpoint is
evaluated on val and test, single-scale and multi-scale. Prints one JSON line.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/camvid.py"
LOG_EVERY = 20
POLL_SECONDS = 0.5
# The first entries of metrics.jsonl after a start are slower, because of compilation.
ENTRIES_TO_SKIP, ENTRIES_TO_MEASURE = 2, 3
# Of the time that is left, for steps that are slower than those measured.
MARGIN = 0.97
SECONDS_TO_EVALUATE = 75.0


class Run:
    """The runs of main.py with one workdir.

    Args:
      workdir: of the run.
      fields: --config.FIELD=VALUE of training and evaluation.
      log_every: steps between two entries of metrics.jsonl.
    """

    def __init__(self, workdir: Path, fields: list[str], log_every: int) -> None:
        self.workdir, self._fields, self._log_every = workdir, fields, log_every

    def train(self, steps: int) -> subprocess.Popen:
        """Starts or resumes training."""
        # Evaluating or saving more often would cost more time than it is worth.
        often = {"total_steps": steps, "eval_every": 0, "checkpoint_every": steps, "system.log_every": self._log_every}
        return self._start("train", *(f"--config.{name}={value}" for name, value in often.items()))

    def evaluate(self, split: str, *, multi_scale: bool) -> subprocess.Popen:
        return self._start("eval", f"--config.data.eval_split={split}", f"--config.eval.multi_scale={multi_scale}")

    def _start(self, mode: str, *fields: str) -> subprocess.Popen:
        command = [sys.executable, "main.py", f"--config={CONFIG}", f"--mode={mode}", f"--workdir={self.workdir}"]
        # Two evaluations share the device. The line of JSON at the end must be the last of this program's output.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return subprocess.Popen([*command, *self._fields, *fields], cwd=ROOT, env=environment, stdout=sys.stderr)

    def step_seconds(self) -> float | None:
        """Seconds between two steps, once they are known."""
        recent = self._entries()[ENTRIES_TO_SKIP:][-ENTRIES_TO_MEASURE:]
        if len(recent) < ENTRIES_TO_MEASURE:
            return None
        return statistics.median(entry["step_seconds"] + entry["input_seconds"] for entry in recent)

    def total_steps(self) -> int | None:
        """Length of the run that the workdir holds already."""
        file = self.workdir / "config.json"
        return json.loads(file.read_text())["total_steps"] if file.exists() else None

    def last_step(self) -> int:
        return max((entry["step"] for entry in self._entries()), default=0)

    def miou(self, split: str) -> float:
        folders = [self.workdir] if split == "val" else [*self.workdir.glob(f"evaluations/camvid-{split}-*")]
        return json.loads((folders[0] / "eval.json").read_text())["mIoU"]

    def _entries(self) -> list[dict[str, Any]]:
        file = self.workdir / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [entry for entry in map(_parsed, lines) if "step_seconds" in entry]


def _parsed(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:  # the line is being written
        return {}


def train(run: Run, wanted: int, deadline: float) -> int:
    """Trains for `wanted` steps, or as many as fit before the deadline; returns the number."""
    process = run.train(wanted)
    fitting = _steps_that_fit(run, process, wanted, deadline)
    if fitting < wanted:
        process.terminate()
        process.wait()
        shutil.rmtree(run.workdir)
        process = run.train(fitting)
    if process.wait():
        sys.exit(f"error: training ended with status {process.returncode}, see its output above")
    return min(fitting, wanted)


def _steps_that_fit(run: Run, process: subprocess.Popen, wanted: int, deadline: float) -> int:
    """Waits until the speed is known; returns `wanted`, or how many steps a run that starts now can take in time."""
    began = time.monotonic()
    while process.poll() is None:
        seconds = run.step_seconds()
        if seconds is not None:
            left = deadline - time.monotonic()
            if (wanted - run.last_step()) * seconds <= left:
                return wanted
            # Starting again takes as long as it did, without the steps that were measured.
            start = time.monotonic() - began - run.last_step() * seconds
            return max(int((left - start) * MARGIN / seconds), 1)
        time.sleep(POLL_SECONDS)
    return wanted


def evaluate(run: Run) -> dict[str, float]:
    """mIoU on val and test, single-scale and multi-scale. Evaluations that write the same files follow each other."""
    found = {"val": run.miou("val")}  # written at the end of training
    for group in ({"val": True, "test": False}, {"test": True}):
        processes = {split: run.evaluate(split, multi_scale=multi_scale) for split, multi_scale in group.items()}
        for split, process in processes.items():
            if process.wait():
                sys.exit(f"error: the evaluation on {split} ended with status {process.returncode}, see above")
            found[f"{split}, multi-scale" if group[split] else split] = run.miou(split)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="at most; default: the config's")
    parser.add_argument("--log_every", type=int, default=LOG_EVERY, help="steps between two measurements of the speed")
    arguments, fields = parser.parse_known_args()
    if strange := [field for field in fields if not field.startswith("--config.") or "=" not in field]:
        parser.error(f"unknown argument {strange[0]!r}: set fields of the config by --config.FIELD=VALUE")
    sys.path.append(str(ROOT))
    from configs import camvid

    began = time.monotonic()
    run = Run(arguments.workdir, fields, arguments.log_every)
    deadline = began + 60 * arguments.minutes - SECONDS_TO_EVALUATE
    steps = train(run, run.total_steps() or arguments.steps or camvid.get_config().total_steps, deadline)
    trained = time.monotonic() - began
    figures = {
        "steps": steps,
        "step_seconds": run.step_seconds(),
        "training_seconds": trained,
        "mIoU": evaluate(run),
        "seconds": time.monotonic() - began,
    }
    print(json.dumps({"benchmark": "camvid", **figures}))


if __name__ == "__main__":
    main()
