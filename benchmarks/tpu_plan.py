"""Shows how a training step's cycles on TPUs are distributed over the network, by the compiler's estimate.

    python benchmarks/tpu_plan.py [--config=configs/ade20k.py] [--topology=v5e:4x4] [--images-per-chip=2,8]
        [model.depth=101 ...]

Compiles the step of a config for a slice of TPUs, as --mode=plan does; docs/plan.md describes how accurate the figures
are. FIELD=VALUE sets a field of the config; the default crop is 512. Each column is a step with a number of images per
chip: millions of cycles by part of the network (fused operations count for one part), time, memory and communication.

A step takes minutes to compile and is cached in system.compilation_cache. Needs libtpu, but no TPU.

Prints one table and one JSON line.
"""

import argparse
import ast
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import ml_collections

from cpnet_jax.errors import UserError
from cpnet_jax.plan import topologies
from cpnet_jax.plan.compiler import Compiler, cache_folder, resolve_config
from cpnet_jax.plan.figures import TpuFigures

ROOT = Path(__file__).resolve().parents[1]


def get_config(path: Path, overrides: list[str]) -> ml_collections.ConfigDict:
    config = runpy.run_path(str(path))["get_config"]()
    config.data.crop_size = (512, 512)
    for override in overrides:
        field, _, value = override.partition("=")
        try:
            config.update_from_flattened_dict({field: _literal(value)})
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{override} does not set a field of the config: use FIELD=VALUE, for example model.depth=101"
            ) from error
    return config


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def describe(step: TpuFigures, chips: int) -> dict[str, Any]:
    """Figures of a step by the names of the table's rows."""
    return {
        **{f"{part}, M cycles": cycles / 1e6 for part, cycles in step.cycles.items()},
        "together, M cycles": sum(step.cycles.values()) / 1e6,
        "compute, ms": 1e3 * step.compute,
        "exchange, ms": 1e3 * (step.seconds(chips) - step.compute),
        "utilization, %": 100 * step.utilization(chips),
        "HBM, GiB": step.compiled.total / topologies.GIB,
        **{f"{group.collective} of {group.content}, MB": group.bytes / 1e6 for group in step.traffic},
        "exchanges": step.exchanges,
    }


def show(columns: dict[int, dict[str, Any] | None], topology: topologies.Topology) -> None:
    """Prints the table; a column is None if the step does not fit, and may lack kinds of communication."""
    titles = [topology.name, *(f"{images} images/chip" for images in columns)]
    print(f"| {' | '.join(titles)} |\n|---|{'---:|' * len(columns)}")
    names = dict.fromkeys(name for column in columns.values() if column for name in column)
    for name in names or ["HBM, GiB"]:
        values = [column.get(name, 0) if column else "does not fit" for column in columns.values()]
        print(
            f"| {name} | {' | '.join(f'{value:.2f}' if isinstance(value, float) else str(value) for value in values)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "ade20k.py")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--images-per-chip", default="2,8")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    sys.path.append(str(ROOT))  # the configs
    topology = topologies.parse(arguments.topology)
    config = get_config(arguments.config, arguments.overrides)
    resolve_config(config)
    compiler = Compiler(config, topology, cache_folder(config))
    columns = {}
    for images in map(int, arguments.images_per_chip.split(",")):
        step = compiler.compile(images)
        columns[images] = describe(TpuFigures(topology.chip, step), topology.chips) if step.fits else None
    show(columns, topology)
    print(json.dumps({"config": config.name, "topology": topology.name, "overrides": arguments.overrides} | columns))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
