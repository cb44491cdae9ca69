"""The process that holds libtpu: `python -m cpnet_jax.plan.worker REQUEST ANSWER`, two files."""

import ctypes
import json
import signal
import sys
from pathlib import Path

import ml_collections

from cpnet_jax.plan import compiler, topologies
from cpnet_jax.plan.step import compile_step

PR_SET_PDEATHSIG = 1  # of linux/prctl.h; there is no libtpu for other systems


def main(asked: str, answer: str) -> None:
    # Or compiling would go on for minutes after whoever asked for it was killed, with no turn for Python in between.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.loads(Path(asked).read_text())
    config, images = ml_collections.ConfigDict(request["config"]), request["images"]
    compiled = compile_step(config, topologies.parse(request["topology"]), images)
    compiler.write(Path(answer), {"images": images, **compiled})


if __name__ == "__main__":
    main(*sys.argv[1:])
