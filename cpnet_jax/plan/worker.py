"""The process that holds libtpu: `python -m cpnet_jax.plan.worker FILE`, the request as JSON on its standard input."""

import json
import sys
from pathlib import Path

import ml_collections

from cpnet_jax.plan import compiler, topologies
from cpnet_jax.plan.step import compile_step


def main(output: str) -> None:
    request = json.load(sys.stdin)
    config, images = ml_collections.ConfigDict(request["config"]), request["images"]
    compiled = compile_step(config, topologies.parse(request["topology"]), images)
    compiler.write(Path(output), {"images": images, **compiled})


if __name__ == "__main__":
    main(*sys.argv[1:])
