"""Compiles training steps for TPUs and GPUs, each in its own process, and caches the results; needs none of them."""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections

from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.errors import UserError
from cpnet_jax.losses import TERMS
from cpnet_jax.models import CPNet
from cpnet_jax.models.backbones import BACKBONES
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.plan.gpus import Machine
from cpnet_jax.plan.step import total_bytes
from cpnet_jax.plan.topologies import Topology
from cpnet_jax.plan.waiting import wait
from cpnet_jax.runtime import files
from cpnet_jax.runtime.programs import COMPILER_VARIABLES

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Toolchain:
    """The compiler for a platform.

    Attributes:
      packages: one of these must be installed, and its version changes programs.
      missing: the error's text if none is.
      update: command for another version.
      environment: variables for the process that compiles.
    """

    packages: tuple[str, ...]
    missing: str
    update: str
    environment: dict[str, str]

    def package(self) -> str:
        """The installed package.

        Raises:
          UserError: if none is installed.
        """
        for package in self.packages:
            if importlib.util.find_spec(package):
                return package
        raise UserError(self.missing)


TOOLCHAINS = {
    # These keep libtpu from looking for chips and for Google Cloud. The named accelerator has no effect: a program is
    # compiled for the topology that is passed. No chip is used, so that several processes may load libtpu at once.
    "tpu": Toolchain(
        ("libtpu",),
        "--mode=plan needs libtpu, the TPU compiler, which is not installed: pip install 'jax[tpu]' (it needs no TPU)",
        "pip install -U libtpu",
        {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": "v5litepod-16",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        },
    ),
    # These keep JAX and its plugin from looking for a driver and for GPUs.
    "cuda": Toolchain(
        ("jax_cuda13_plugin", "jax_cuda12_plugin"),
        "--mode=plan for GPUs needs JAX with CUDA, 5 GB, which is not installed: pip install 'jax[cuda13]' (it needs "
        "no GPU and no driver)",
        "pip install -U 'jax[cuda13]'",
        {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"},
    ),
}
# Sections and fields of the config that change the program; others, such as learning rates, change only constants.
SECTIONS = ("model", "loss", "finetune")
FIELDS = {
    "data": ("crop_size", "num_classes"),
    "system": ("forms", "remat"),
    "optimizer": ("accumulate", "clip_global_norm", "decay_norm_and_bias", "head_lr_multiplier"),
}
# Files of this package that change the program or its description.
SOURCES = (
    "config/build.py",
    "sharding.py",
    "data/normalize.py",
    "losses/*.py",
    "models/**/*.py",
    "training/finetune.py",
    "training/optimizer.py",
    "training/patterns.py",
    "training/state.py",
    "training/step.py",
    "plan/flops.py",
    "plan/gpus.py",
    "plan/step.py",
)


# Lines of the compiler's log.
OUT_OF_MEMORY = re.compile(r"bad_alloc|out of memory|cannot allocate memory|RESOURCE_EXHAUSTED", re.IGNORECASE)
FATAL = re.compile(r"F\d{4} |terminate called|Fatal ")
STACK_TRACE = re.compile(r"\s*(@ +0x|\*\*\*|PC: |#\d+ |File \")")


@dataclass(frozen=True)
class Compiled:
    """Result of compiling a training step for a slice. All figures are for one chip and one step.

    Attributes:
      images: on the chip.
      flops: of the program before compilation.
      state: bytes of "params", "opt_state" and "batch_stats", without padding.
      batch: bytes of images and labels, without padding.
      parameters, statistics: the shapes among the parameters, and among the BatchNorm statistics.
      memory: bytes in the compiler's layout ("argument", "output", "alias", "temp", "generated_code"); None if the step
        does not fit.
      needed: lower bound on the bytes that a step needs that does not fit; None if it fits.
      program: text of the compiled module; None if the step does not fit.
      seconds: duration of the compilation.
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
        """Bytes of the chip's memory that the step takes; a lower bound if it does not fit."""
        if self.memory is None:
            assert self.needed is not None, "the compiler says how much an impossible step needs"
            return self.needed
        return total_bytes(self.memory)


class Compiler:
    """Compiles one config's training step for one slice, or for the GPUs of a machine.

    Args:
      config: see `resolve_config`.
      topology: the slice, or the GPUs.
      cache: folder for results; None to keep none.

    Raises:
      UserError: if the compiler for this platform is not installed.
    """

    def __init__(self, config: ml_collections.ConfigDict, topology: Topology | Machine, cache: Path | None) -> None:
        self._toolchain = TOOLCHAINS[topology.platform]
        self._package = self._toolchain.package()
        self._config, self.topology, self._cache = config, topology, cache

    def cached(self, images: int) -> Compiled | None:
        """Cached result of an earlier compilation, or None."""
        path = self._path(images)
        try:
            return _read(path.read_bytes()) if path else None
        except (OSError, EOFError, zlib.error, ValueError, TypeError):  # missing, damaged, or of another version
            return None

    def compile(self, images: int, *, expected: float | None = None, note: str = "") -> Compiled:
        """Returns the step for this number of images per chip, from the cache or compiled now, which takes minutes.

        Args:
          expected: duration in seconds, for the progress line; None if unknown.
          note: text at the end of the progress line.

        Raises:
          UserError: if a signal ended the compiler: memory ran out, or the compiler has a fault.
          RuntimeError: if compiling failed.
        """
        if found := self.cached(images):
            return found
        request = {"config": as_dict(self._config), "topology": self.topology.name, "images": images}
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
            request_file, result_file = Path(folder) / "request.json", Path(folder) / "compiled.json.gz"
            request_file.write_text(json.dumps(request), encoding="utf-8")
            process = subprocess.Popen(
                [sys.executable, "-m", "cpnet_jax.plan.worker", request_file, result_file],
                env={
                    **os.environ,
                    **self._toolchain.environment,
                    "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path]),
                },
                stdout=log,
                stderr=log,
            )
            try:
                wait(
                    process,
                    f"{self.topology.name}, {images} images per {self.topology.unit}: compiling",
                    expected=expected,
                    note=note,
                )
            finally:
                process.kill()
                process.wait()
            if process.returncode == UserError.exit_status and result_file.exists():
                raise UserError(result_file.read_text(encoding="utf-8"))
            if process.returncode:
                log.seek(0)
                raise _failure(process.returncode, log.read(), self._toolchain.update)
            compressed = result_file.read_bytes()
        if path := self._path(images):
            # A failure costs only the time to compile it again.
            with suppress(OSError), files.replacing(path) as temporary:
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
            "options": {name: os.environ.get(name, "") for name in COMPILER_VARIABLES},
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", self._package)},
            "sources": _digest(path.read_bytes() for pattern in SOURCES for path in sorted(PACKAGE.glob(pattern))),
        }
        return self._cache / f"{_digest([json.dumps(key, sort_keys=True).encode()])}.json.gz"


def resolve_config(config: ml_collections.ConfigDict) -> None:
    """Checks a config and fills in its number of classes.

    Raises:
      UserError: if a field's value cannot work.
    """
    check_config(config)
    _check_parts(config)
    if not config.data.num_classes:
        resolve_classes(config, build.make_dataset(config).classes)


def _check_parts(config: ml_collections.ConfigDict) -> None:
    """Refuses parts that a config file adds, since the process that compiles does not load it."""
    used = {
        f"config.model.backbone is {config.model.backbone!r}": BACKBONES[config.model.backbone],
        f"config.model.context is {config.model.context!r}": CONTEXTS.get(config.model.context, CPNet),
        **{f"config.loss.{name}_weight is set": TERMS[name] for name in TERMS if config.loss.get(f"{name}_weight")},
    }
    for said, part in used.items():
        if not getattr(part, "__module__", "").startswith("cpnet_jax."):
            raise UserError(
                f"{said}, and a config file adds this part: --mode=plan knows only the parts of the package, so use "
                "one of these"
            )


def cache_folder(config: ml_collections.ConfigDict) -> Path | None:
    """Creates the folder for compiled steps.

    None if config.system.compilation_cache is empty, not writable or in an object store: compiled steps are kept on
    local disks.
    """
    name = config.system.compilation_cache
    if not name or files.is_remote(name):
        return None
    cache = files.as_local_path(name) / "plans"
    return cache if files.make_cache(cache, "config.system.compilation_cache") else None


def write(path: Path, compiled: dict[str, Any]) -> None:
    """Writes the fields of `Compiled` to a file of the cache's format."""
    path.write_bytes(gzip.compress(json.dumps(compiled).encode(), compresslevel=5))


def _read(compressed: bytes) -> Compiled:
    return Compiled(**json.loads(gzip.decompress(compressed)))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]


def _failure(status: int, log: str, update: str) -> Exception:
    if status >= 0:
        return RuntimeError(f"compiling failed:\n{log[-4000:]}")
    if -status == signal.SIGKILL or OUT_OF_MEMORY.search(log):
        return UserError(
            f"signal {-status} ended the compiler, probably because memory ran out: close other programs, or run "
            "--mode=plan on a machine with more memory (a full network takes about 10 GB)"
        )
    return UserError(
        f"signal {-status} ended the compiler, which {_reason(log)}: try again, then another version of the compiler "
        f"({update}), another --topology or other --images_per_chip"
    )


def _reason(log: str) -> str:
    """What the compiler said last: the first fatal line of its log, or else the last line outside of stack traces."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not STACK_TRACE.match(line)]
    said = next((line for line in lines if FATAL.match(line)), lines[-1] if lines else None)
    return f"said {said[:500]!r}" if said else "said nothing"
