"""Compiling for TPUs on a machine without them: one process a program, and a cache of what came out."""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections

from cpnet_jax.config.same_run import as_dict
from cpnet_jax.errors import UserError
from cpnet_jax.plan.topologies import Topology
from cpnet_jax.plan.waiting import wait
from cpnet_jax.runtime import files

PACKAGE = Path(__file__).parents[1]
# Unless told otherwise, libtpu looks for the chips of the machine it runs on, and for Google Cloud around it. The
# accelerator that is named here only keeps it from asking: a program is compiled for the topology that it is given. As
# no chip is used, several such processes may run at once.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# What of a config makes another program. Learning rates, seeds and the like only change constants in it.
SECTIONS = ("model", "loss", "compiler")
FIELDS = {
    "data": ("crop_size", "num_classes"),
    "system": ("remat",),
    "optimizer": ("accumulate", "clip_global_norm", "decay_norm_and_bias"),
}
# What of this package makes another program, or describes it otherwise.
SOURCES = (
    "config/build.py",
    "sharding.py",
    "data/normalize.py",
    "losses/*.py",
    "models/**/*.py",
    "training/optimizer.py",
    "training/state.py",
    "training/step.py",
    "plan/flops.py",
    "plan/step.py",
)


@dataclass(frozen=True)
class Compiled:
    """A training step compiled for a slice, as its compiler describes it. Bytes are those of one chip.

    Attributes:
      images: a chip and step.
      flops: of a chip and step, as the program asks for them.
      state: bytes of "params", "opt_state" and "batch_stats", as many as their elements take.
      batch: bytes of a chip's images and labels.
      parameters, statistics: the shapes that occur among the parameters, and among the BatchNorm statistics.
      memory: bytes as the compiler lays them out ("argument", "output", "alias", "temp", "generated_code"); None where
        the chip has not enough.
      needed: bytes that the step would need at least, where the chip has not enough; else None.
      program: the compiled module as text; None where the chip has not enough.
      seconds: that compiling took.
    """

    images: int
    flops: int
    state: dict[str, int]
    batch: int
    parameters: list[list[int]]
    statistics: list[list[int]]
    memory: dict[str, int] | None
    needed: int | None
    program: str | None
    seconds: float

    @property
    def fits(self) -> bool:
        return self.memory is not None

    @property
    def total(self) -> int:
        """Bytes that the step takes, or would take, of a chip's memory."""
        if not self.fits:
            return self.needed
        memory = self.memory
        # What is given back in the place of an argument takes no room of its own.
        return memory["argument"] + memory["output"] - memory["alias"] + memory["temp"] + memory["generated_code"]


class Compiler:
    """Compiles one config's training step for one slice; remembers the results, in a folder if there is one.

    Args:
      config: checked, with its number of classes.
      topology: the slice.
      cache: folder; None: nothing is kept.

    Attributes:
      topology: the slice.

    Raises:
      UserError: where libtpu is not installed.
    """

    def __init__(self, config: ml_collections.ConfigDict, topology: Topology, cache: Path | None) -> None:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                "planning needs libtpu, the compiler for TPUs, which is not installed: "
                "pip install 'cpnet-jax[tpu]' (no TPU is needed)"
            )
        self._config, self.topology, self._cache = config, topology, cache

    def known(self, images: int) -> Compiled | None:
        """What was compiled before, if it was."""
        path = self._path(images)
        try:
            return path and _read(path.read_bytes())
        except (OSError, EOFError, zlib.error, ValueError, TypeError):  # not there, damaged, or of another version
            return None

    def compile(self, images: int, *, expected: float | None = None, note: str = "") -> Compiled:
        """The step for so many images a chip, from the cache or compiled now, which takes minutes.

        Args:
          expected: seconds that it will probably take.
          note: shown while it does.

        Raises:
          UserError: where the compiler was stopped from outside, as for lack of memory.
        """
        if found := self.known(images):
            return found
        request = {"config": as_dict(self._config), "topology": self.topology.name, "images": images}
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
            asked, answer = Path(folder) / "request.json", Path(folder) / "compiled.json.gz"
            asked.write_text(json.dumps(request))
            process = subprocess.Popen(
                [sys.executable, "-m", "cpnet_jax.plan.worker", asked, answer],
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path])},
                stdout=log,
                stderr=log,
            )
            try:
                wait(process, f"{self.topology.name}, {images} a chip: compiling", expected=expected, note=note)
            finally:
                process.kill()
                process.wait()
            if process.returncode:
                raise _failure(process.returncode, log)
            compressed = answer.read_bytes()
        if path := self._path(images):
            with files.replacing(path) as temporary:
                temporary.write_bytes(compressed)
        return _read(compressed)

    def _path(self, images: int) -> Path | None:
        if self._cache is None:
            return None
        config = as_dict(self._config)
        key = {
            "config": {name: config[name] for name in SECTIONS}
            | {section: {name: config[section][name] for name in names} for section, names in FIELDS.items()},
            "topology": self.topology.name,
            "images": images,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "libtpu")},
            "sources": _digest(path.read_bytes() for pattern in SOURCES for path in sorted(PACKAGE.glob(pattern))),
        }
        return self._cache / f"{_digest([json.dumps(key, sort_keys=True).encode()])}.json.gz"


def write(path: Path, compiled: dict[str, Any]) -> None:
    """The worker's side of the exchange."""
    path.write_bytes(gzip.compress(json.dumps(compiled).encode(), compresslevel=5))


def _read(compressed: bytes) -> Compiled:
    return Compiled(**json.loads(gzip.decompress(compressed)))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]


def _failure(status: int, log: Any) -> Exception:
    if status < 0:
        return UserError(
            f"the compiler was stopped by signal {-status}, as happens where memory runs out: close other programs, or "
            "run --mode=plan on a machine with more memory (a full network takes some 10 GB)"
        )
    log.seek(0)
    return RuntimeError(f"compiling failed:\n{log.read()[-4000:]}")
