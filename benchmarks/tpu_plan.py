"""Where do the cycles of a training step go on TPUs, by their compiler's estimate?

    python benchmarks/tpu_plan.py [--config=configs/ade20k.py] [--topology=v5e:4x4] [--images-per-chip=2,8]
        [model.depth=101 ...]

Compiles the step of a config for a slice of TPUs that is not there, as --mode=plan does; docs/plan.md says how far to
trust that. Fields of the config are given as FIELD=VALUE; the crop is 512 unless they say otherwise. Every column is a
step of so many images a chip: millions of cycles by part of the network, told from the names of operations (what is
fused counts for one of them), what they come to, a chip's memory, and what the chips exchange.

A step takes minutes to compile, once: it is kept under the config's compilation_cache. Needs libtpu, and no TPU.

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
from cpnet_jax.modes.plan import prepare
from cpnet_jax.plan import topologies
from cpnet_jax.plan.compiler import Compiler
from cpnet_jax.plan.figures import Figures

ROOT = Path(__file__).resolve().parents[1]


def get_config(path: Path, overrides: list[str]) -> ml_collections.ConfigDict:
    config = runpy.run_path(str(path))["get_config"]()
    config.data.crop_size = (512, 512)
    for override in overrides:
        field, _, value = override.partition("=")
        try:
            config.update_from_flattened_dict({field: _literal(value)})
        except (KeyError, TypeError) as error:
            raise UserError(f"{override} is no field of the config with a value for it: give FIELD=VALUE") from error
    return config


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def describe(step: Figures, chips: int) -> dict[str, Any]:
    """What the table says of a step, by the names of its rows."""
    return {
        **{f"{part}, M cycles": cycles / 1e6 for part, cycles in step.cycles.items()},
        "together, M cycles": sum(step.cycles.values()) / 1e6,
        "compute, ms": 1e3 * step.compute,
        "exchange, ms": 1e3 * (step.seconds(chips) - step.compute),
        "of peak, %": 100 * step.of_peak(chips),
        "HBM, GiB": step.compiled.total / topologies.GIB,
        **{f"{group.collective} of {group.content}, MB": group.bytes / 1e6 for group in step.traffic},
        "exchanges": step.exchanges,
    }


def show(columns: dict[int, dict[str, Any] | None], topology: topologies.Topology) -> None:
    """Columns of the same rows, but for what is exchanged in some alone; None: does not fit."""
    titles = [topology.name, *(f"{images} a chip" for images in columns)]
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
    compiler = Compiler(config, topology, prepare(config))
    columns = {}
    for images in map(int, arguments.images_per_chip.split(",")):
        step = compiler.compile(images)
        columns[images] = describe(Figures(topology.chip, step), topology.chips) if step.fits else None
    show(columns, topology)
    print(json.dumps({"config": config.name, "topology": topology.name, "overrides": arguments.overrides} | columns))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
