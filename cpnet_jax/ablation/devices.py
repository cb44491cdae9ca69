"""Assigns a device to each of several simultaneous runs, by environment variables of their processes.

Runs do not share an accelerator: a JAX process takes most of a GPU's memory
(https://docs.jax.dev/en/latest/gpu_memory_allocation.html), and libtpu lets only one process use a chip.
"""

import json
import os
import subprocess
import sys

from cpnet_jax.errors import UserError

# Runs in a separate process, since a process that has used an accelerator keeps it. A TPU chip may be two devices.
COUNT_DEVICES = """
import jax, json
devices = jax.local_devices()
print(json.dumps([devices[0].platform, len({tuple(getattr(d, "coords", [d.id])) for d in devices})]))
"""


def environments(jobs: int) -> list[dict[str, str]]:
    """Environment variables for each of `jobs` simultaneous processes.

    A single process gets all devices. Several processes share the CPU, or get one GPU or TPU chip each.

    Raises:
      UserError: if there are fewer GPUs or TPU chips than jobs.
    """
    if jobs == 1:
        return [{}]
    platform, count = _count_devices()
    if platform == "cpu":
        return [{}] * jobs
    if jobs > count:
        raise UserError(f"--jobs is {jobs}, but JAX finds {count} {platform.upper()}(s) here: use at most {count}")
    return [_only(platform, place) for place in range(jobs)]


def _only(platform: str, place: int) -> dict[str, str]:
    if platform == "tpu":
        return {
            "TPU_VISIBLE_CHIPS": _visible("TPU_VISIBLE_CHIPS", place),
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_BOUNDS": "1,1,1",
        }
    return {"CUDA_VISIBLE_DEVICES": _visible("CUDA_VISIBLE_DEVICES", place)}


def _visible(variable: str, place: int) -> str:
    """Name of a device; if the variable is set already, one of the devices it lists."""
    listed = os.environ.get(variable)
    return listed.split(",")[place] if listed else str(place)


def _count_devices() -> tuple[str, int]:
    result = subprocess.run([sys.executable, "-c", COUNT_DEVICES], capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"JAX finds no device: {(result.stderr.splitlines() or ['no output'])[-1]}")
    platform, count = json.loads(result.stdout.splitlines()[-1])
    return platform, count
