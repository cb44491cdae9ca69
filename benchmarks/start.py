"""Measures where the time goes from a command to its first training step, and from the last evaluated image to the end.

    python benchmarks/start.py [--rounds=5] [--against=CHECKOUT] [--steps=3] [--config=quickstart]

Each round trains a few steps twice, as a user would start it: cold (no cache, no prepared data) and warm (everything
cached, a new workdir). --against names another checkout of this project to measure in turns. Medians are shown.

Parts overlap, so they do not add up to the time to the first step. The counts do not depend on the machine: modules
imported, programs traced, programs compiled, and arrays on the devices, all up to the first step.

Prints one table and one JSON line.
"""

import argparse
import functools
import json
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STARTED, RESULT = "START_BENCHMARK_STARTED", "START_BENCHMARK_RESULT"
# Part -> the function that does it. Time is summed over its calls, up to the first step.
PARTS = {
    "config": ("cpnet_jax.config.check", "check_config"),
    "data": ("cpnet_jax.modes.experiment", "open_splits"),
    "mesh": ("cpnet_jax.sharding", "make_mesh"),
    "init": ("cpnet_jax.modes.experiment", "Experiment.initial_state"),
    "load programs": ("cpnet_jax.runtime.programs", "_load"),
    "first batch": ("cpnet_jax.data.device_batches", "DeviceBatches.__next__"),
}
# JAX's events -> part.
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile or find in JAX's cache",
}
MOMENTS = ("first line", "imports", "first step", "after the last image", "whole run")
COUNTS = ("modules", "PyTorch modules", "programs traced", "programs compiled", "arrays on the devices")


class Probe:
    """Runs main.py in this process and notes what happens when."""

    def __init__(self) -> None:
        self.began = float(os.environ[STARTED])
        self.seconds: Counter[str] = Counter()
        self.moments: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.traced: list[str] = []
        self._compilations = self._found = 0

    def run(self, arguments: list[str]) -> None:
        import jax.monitoring

        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        sys.argv = ["main.py", *arguments]
        sys.path.insert(0, os.getcwd())
        from cpnet_jax import modes

        # The parts are wrapped when the mode is found, so that its imports are timed as in a run without a probe.
        self._replace(modes, "find", lambda find: lambda name: self._wrapping(find(name)))
        try:
            runpy.run_path("main.py", run_name="__main__")
        finally:
            self.moments["whole run"] = self._now()
            Path(os.environ[RESULT]).write_text(json.dumps(vars(self), default=lambda _: None))

    def _wrapping(self, mode: Any) -> Any:
        import dataclasses

        def run(call: Any) -> None:
            import cpnet_jax.modes.train  # noqa: F401

            self.moments["imports"] = self._now()
            self._wrap_parts()
            mode.run(call)

        return dataclasses.replace(mode, run=run)

    def _wrap_parts(self) -> None:
        from cpnet_jax.evaluation.evaluator import Evaluator
        from cpnet_jax.training import monitor

        for part, (module, path) in PARTS.items():
            if module in sys.modules:
                owner, names = sys.modules[module], path.split(".")
                owner = getattr(owner, names[0]) if len(names) > 1 else owner
                self._replace(owner, names[-1], functools.partial(self._timed, part))
        self._replace(monitor, "_read", self._noting_first_step)
        evaluate = "validate" if hasattr(Evaluator, "validate") else "evaluate"
        self._replace(Evaluator, evaluate, self._noting_last_image)

    def _replace(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        setattr(owner, name, wrap(getattr(owner, name)))

    def _timed(self, part: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.time()
            try:
                return function(*arguments, **options)
            finally:
                self._add(part, time.time() - began)

        return timed

    def _noting_first_step(self, read: Callable) -> Callable:
        def noting(metrics: Any) -> Any:
            found = read(metrics)
            if "first step" not in self.moments:
                self.moments["first step"] = self._now()
                self._count()
            return found

        return noting

    def _noting_last_image(self, evaluate: Callable) -> Callable:
        def noting(*arguments: Any) -> Any:
            found = evaluate(*arguments)
            self.moments["last image"] = self._now()
            return found

        return noting

    def _count(self) -> None:
        import jax

        self.counts = {
            "modules": len(sys.modules),
            "PyTorch modules": sum(name.partition(".")[0] == "torch" for name in sys.modules),
            "programs traced": len(self.traced),
            "programs compiled": self._compilations - self._found,
            "arrays on the devices": len(jax.live_arrays()),
        }

    def _on_duration(self, event: str, seconds: float, **details: Any) -> None:
        if event in EVENTS:
            self._add(EVENTS[event], seconds)
        if event.endswith("jaxpr_trace_duration"):
            self.traced.append(str(details.get("fun_name")))
        self._compilations += event.endswith("backend_compile_duration")

    def _on_event(self, event: str, **_: Any) -> None:
        self._found += event == "/jax/compilation_cache/cache_hits"

    def _add(self, part: str, seconds: float) -> None:
        if "first step" not in self.moments:
            self.seconds[part] += seconds

    def _now(self) -> float:
        return time.time() - self.began


def measure(checkout: Path, folder: Path, workdir: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the program once in its own process; returns seconds and counts by name."""
    result, began = folder / "result.json", time.time()
    environment = os.environ | {STARTED: str(began), RESULT: str(result), "PYTHONPATH": str(checkout)}
    command = [
        *(sys.executable, "-u", str(Path(__file__).resolve()), "--probe"),
        *(f"--config=configs/{arguments.config}.py", f"--workdir={workdir}", f"--config.data.dir={folder}/data"),
        *(f"--config.system.compilation_cache={folder}/cache", f"--config.total_steps={arguments.steps}"),
    ]
    process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    first_line = time.time() - began
    process.communicate()
    ended = time.time() - began
    if process.returncode:
        raise SystemExit(f"{checkout} failed with status {process.returncode}")
    found = json.loads(result.read_text())
    moments = found["moments"] | {"first line": first_line, "whole run": ended}
    moments["after the last image"] = ended - moments.pop("last image")
    return found["seconds"] | moments | found["counts"]


def main() -> None:
    if sys.argv[1:2] == ["--probe"]:
        Probe().run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--config", default="quickstart")
    arguments = parser.parse_args()
    checkouts = {"this": ROOT} | ({"other": arguments.against.resolve()} if arguments.against else {})
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for _ in range(arguments.rounds):
            for name, checkout in checkouts.items():
                folder = Path(temporary) / name
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                for state in ("cold", "warm"):
                    figures = measure(checkout, folder, folder / state, arguments)
                    found.setdefault(f"{name}, {state}", []).append(figures)
    print_table(found)


def print_table(found: dict[str, list[dict[str, Any]]]) -> None:
    medians = {
        column: {name: statistics.median(run.get(name, 0) for run in runs) for name in (*_parts(), *MOMENTS, *COUNTS)}
        for column, runs in found.items()
    }
    print(f"| seconds, medians of {len(next(iter(found.values())))} | " + " | ".join(medians) + " |")
    print("|---|" + "---:|" * len(medians))
    for name in (*_parts(), *MOMENTS, *COUNTS):
        form = "{:.0f}" if name in COUNTS else "{:.2f}"
        print(f"| {name} | " + " | ".join(form.format(column[name]) for column in medians.values()) + " |")
    print(json.dumps(medians))


def _parts() -> tuple[str, ...]:
    return (*PARTS, *EVENTS.values())


if __name__ == "__main__":
    main()
