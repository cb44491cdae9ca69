"""The process that holds libtpu: `python -m cpnet_jax.plan.worker REQUEST ANSWER`, two files."""

import json
import sys
from pathlib import Path

import ml_collections

from cpnet_jax.plan import compiler, topologies
from cpnet_jax.plan.step import compile_step


def main(asked: str, answer: str) -> None:
    request = json.loads(Path(asked).read_text())
    config, images = ml_collections.ConfigDict(request["config"]), request["images"]
    compiled = compile_step(config, topologies.parse(request["topology"]), images)
    compiler.write(Path(answer), {"images": images, **compiled})


if __name__ == "__main__":
    main(*sys.argv[1:])
