"""Assigns a device, or a share of the CPU's cores, to each of several simultaneous runs.

Runs do not share an accelerator: a JAX process takes most of a GPU's memory
(https://docs.jax.dev/en/latest/gpu_memory_allocation.html), and libtpu lets only one process use a chip. On two cores,
two runs at a time with a core each took 0.56 of the time of the same runs one after the other with both cores.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

from cpnet_jax.errors import UserError

# Runs in a separate process, since a process that has used an accelerator keeps it. A TPU chip may be two devices.
COUNT_DEVICES = """
import jax, json
devices = jax.local_devices()
print(json.dumps([devices[0].platform, len({tuple(getattr(d, "coords", [d.id])) for d in devices})]))
"""


@dataclass(frozen=True)
class Place:
    """Where a process runs.

    Attributes:
      environment: variables that limit it to a device; empty for all.
      cores: that it may use; empty for all.
    """

    environment: dict[str, str] = field(default_factory=dict)
    cores: frozenset[int] = frozenset()


def places(jobs: int) -> list[Place]:
    """A place for each of `jobs` simultaneous processes.

    A single process gets all devices. Several get one GPU or TPU chip each, or an equal share of the cores.

    Raises:
      UserError: if there are fewer GPUs or TPU chips than jobs.
    """
    if jobs == 1:
        return [Place()]
    platform, count = _count_devices()
    if platform == "cpu":
        return [Place(cores=cores) for cores in _shares(jobs)]
    if jobs > count:
        raise UserError(f"--jobs is {jobs}, but JAX finds {count} {platform.upper()}(s) here: use at most {count}")
    return [Place(_only(platform, place)) for place in range(jobs)]


def _shares(jobs: int) -> list[frozenset[int]]:
    """Disjoint equal parts of this process's cores; empty if there are fewer than jobs, or the system cannot limit."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    size = len(cores) // jobs
    return [frozenset(cores[place * size : (place + 1) * size]) for place in range(jobs)]


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
