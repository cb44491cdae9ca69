"""Measures time and memory of a training step for each row of an ablation.

    python benchmarks/row_steps.py --table=scenes [--rows=none,psp,full,pairs] [--rounds=5] [--steps=4]
        [--config.FIELD=VALUE ...]

All rows are compiled in one process and take steps in turns, so that other work on the machine slows all of them
alike. Images and labels are random. Shown are the median time of a step over the rounds, and the memory that the
compiler allocates for parameters, inputs and everything in between. Prints one table and one JSON line.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from cpnet_jax import sharding
from cpnet_jax.ablation import runs, table
from cpnet_jax.config import build
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import exit_status
from cpnet_jax.training.state import create_state

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # the configs and the benchmarks

# Takes a number of steps; returns the seconds of one.
Steps = Callable[[int], float]


def prepare(config: Any) -> tuple[Steps, int]:
    """Compiles a config's step; returns the function that takes steps, and the bytes that the compiler allocates."""
    from benchmarks.train_step import make_batch

    mesh = sharding.make_mesh(jax.devices()[:1])
    create = partial(create_state, build.make_model(config), build.make_optimizer(config))
    state = jax.jit(partial(create, tuple(config.data.crop_size), 0), out_shardings=sharding.replicated(mesh))()
    batch = jax.device_put(make_batch(config), sharding.split(mesh))
    step = build.make_train_step(config, mesh).lower(state, batch).compile()

    def take(count: int) -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(count):
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - began) / count

    analysis = step.memory_analysis()
    return take, analysis.temp_size_in_bytes + analysis.argument_size_in_bytes


def measure(configs: dict[str, Any], rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Figures of each row."""
    prepared = {row: prepare(config) for row, config in configs.items()}
    for take, _ in prepared.values():
        take(2)  # further tuning
    seconds = [{row: take(steps) for row, (take, _) in prepared.items()} for _ in range(rounds)]
    return {
        row: {
            "seconds": statistics.median(taken[row] for taken in seconds),
            "spread": [fold(taken[row] for taken in seconds) for fold in (min, max)],
            "bytes": size,
        }
        for row, (_, size) in prepared.items()
    }


def markdown(results: dict[str, dict[str, Any]]) -> str:
    first = next(iter(results.values()))
    lines = [
        "| row | ms/step | (min, max) | MB | time, first row = 1 | memory, first row = 1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, found in results.items():
        least, most = (1e3 * seconds for seconds in found["spread"])
        lines.append(
            f"| `{row}` | {1e3 * found['seconds']:.0f} | {least:.0f}, {most:.0f} | {found['bytes'] / 1e6:.0f} "
            f"| {found['seconds'] / first['seconds']:.2f} | {found['bytes'] / first['bytes']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    fields = "--config.FIELD=VALUE sets a field of every row's config."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=fields, allow_abbrev=False)
    parser.add_argument("--table", required=True, help="name of a file in configs/ablations/, without .py")
    parser.add_argument("--rows", help="only these rows, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="in which every row takes its turn")
    parser.add_argument("--steps", type=int, default=4, help="of each row in a round")
    arguments, overrides = parser.parse_known_args()
    if strange := [one for one in overrides if not one.startswith("--config.") or "=" not in one]:
        parser.error(f"unknown argument {strange[0]!r}: set fields of the config by --config.FIELD=VALUE")
    if min(arguments.rounds, arguments.steps) < 1:
        parser.error("--rounds and --steps must be at least 1")
    chosen = table.load(arguments.table, ROOT / "configs" / "ablations")
    rows = arguments.rows.split(",") if arguments.rows else list(chosen.rows)
    if unknown := [row for row in rows if row not in chosen.rows]:
        raise UserError(f"--rows has {unknown[0]!r}: the rows of {arguments.table} are {', '.join(chosen.rows)}")
    made = {run.row: run for run in runs.make_runs(chosen, str(ROOT / chosen.config), [0], overrides, Path("unused"))}
    results = measure({row: runs.load_config(made[row]) for row in rows}, arguments.rounds, arguments.steps)
    print(markdown(results))
    device = jax.devices()[0].device_kind
    print(json.dumps({"benchmark": "row_steps", "table": arguments.table, "device": device, "rows": results}))


if __name__ == "__main__":
    exit_status.run(main)
