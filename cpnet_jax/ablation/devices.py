"""A device for each of several runs at once, by the environment that their processes are started in.

https://docs.jax.dev/en/latest/gpu_memory_allocation.html (a process takes most of a GPU's memory) is why two runs do
not share an accelerator; libtpu lets only one process use a chip at all.
"""

import json
import os
import subprocess
import sys

from cpnet_jax.errors import UserError

# Asked for in a process of its own: one that has seen an accelerator keeps it. A TPU's chip may be two devices.
ASK = """
import jax, json
devices = jax.local_devices()
print(json.dumps([devices[0].platform, len({tuple(getattr(d, "coords", [d.id])) for d in devices})]))
"""


def environments(jobs: int) -> list[dict[str, str]]:
    """What to add to the environment of each of `jobs` processes that run at once.

    One alone has all devices there are, and several share the cores of CPUs; of GPUs and TPUs each has one.

    Raises:
      UserError: where there are fewer GPUs or TPU chips than jobs.
    """
    if jobs == 1:
        return [{}]
    platform, count = _ask()
    if platform == "cpu":
        return [{}] * jobs
    if jobs > count:
        raise UserError(f"--jobs is {jobs}, and JAX finds {count} {platform.upper()}(s) here: give at most {count}")
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
    """Of those that the variable names already, where it is set."""
    named = os.environ.get(variable)
    return named.split(",")[place] if named else str(place)


def _ask() -> tuple[str, int]:
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    if asked.returncode:
        raise UserError(f"JAX finds no device: {(asked.stderr.splitlines() or ['it says nothing'])[-1]}")
    platform, count = json.loads(asked.stdout.splitlines()[-1])
    return platform, count
