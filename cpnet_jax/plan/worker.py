"""Compiles one step in a separate process: `python -m cpnet_jax.plan.worker REQUEST_FILE RESULT_FILE`."""

import ctypes
import json
import signal
import sys
from pathlib import Path

import ml_collections

from cpnet_jax.errors import UserError
from cpnet_jax.plan import compiler, topologies
from cpnet_jax.plan.step import compile_step

PR_SET_PDEATHSIG = 1  # from linux/prctl.h; these compilers exist for Linux only


def main(request_file: str, result_file: str) -> None:
    # Ends this process with its parent. The compiler runs for minutes, in which Python cannot check that.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    config, images = ml_collections.ConfigDict(request["config"]), request["images"]
    topology = topologies.parse(request["topology"])
    try:
        compiled = compile_step(config, topology, images)
    except UserError as error:  # for the parent process: the log may have further lines of the compiler
        Path(result_file).write_text(str(error), encoding="utf-8")
        sys.exit(UserError.exit_status)
    compiler.write(Path(result_file), {"images": images, **compiled})


if __name__ == "__main__":
    main(*sys.argv[1:])
