"""The compiled programs of a run, kept on disk: a second start with the same config neither traces nor compiles them.

JAX's own cache is a second layer. Its key is the traced program, so it saves only the compilation, but it also serves
runs whose config or code differs in what a program does not depend on.
"""

import hashlib
import json
import os
import pickle
import platform
import sys
import sysconfig
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from cpnet_jax.runtime import background, files

# Bytes of stored programs; the least recently used ones beyond it are removed.
MOST_BYTES = 2 * 2**30
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# Environment variables that change what XLA compiles.
COMPILER_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# A jitted function, and the shapes, dtypes and shardings of its arguments.
Traceable = tuple[Any, tuple[Any, ...]]


class _WrittenByJax(threading.local):
    """How many programs JAX has compiled in this thread and written to its own cache."""

    count = 0

    def notice(self, event: str, **_: Any) -> None:
        self.count += event == "/jax/compilation_cache/cache_misses"


_written_by_jax = _WrittenByJax()
jax.monitoring.register_event_listener(_written_by_jax.notice)


class Programs:
    """Programs by name: compiled once for each process, in the background if they are started early.

    Several processes compile without the files, because a stored program is tied to the devices of its process.

    Args:
      folder: config.system.compilation_cache; an empty name, or one in an object store, keeps no files.
      config: everything that programs may depend on besides the code, the versions and the devices; JSON data.
    """

    def __init__(self, folder: str, config: Any) -> None:
        self._folder, self._config = folder, config
        self._programs: dict[str, Future] = {}

    def start(self, name: str, make: Callable[[], Traceable]) -> None:
        """Starts to load or compile a program in the background.

        Args:
          name: unique among the programs of the run.
          make: returns the function to compile and its arguments; called only if the program is not on disk.
        """
        self._programs[name] = background.run(partial(self._load_or_compile, name, make))

    def get(self, name: str, make: Callable[[], Traceable]) -> Any:
        """The compiled program; waits for it if it was started. Raises what tracing and compiling raise."""
        if name not in self._programs:
            self._programs[name] = future = Future()
            try:
                future.set_result(self._load_or_compile(name, make))
            except BaseException as error:  # the next call would wait forever for a future without a result
                future.set_exception(error)
        return self._programs[name].result()

    def _load_or_compile(self, name: str, make: Callable[[], Traceable]) -> Any:
        path = self._path(name)
        program = None if path is None else _load(path)
        if program is None:
            function, arguments = make()
            written = _written_by_jax.count
            program = function.lower(*arguments).compile()
            # XLA for CPUs loses parts of a program that is loaded and stored again. So a program is stored only if JAX
            # has compiled it, and not found it in its own cache: JAX then writes it there, too.
            if path is not None and (
                _written_by_jax.count > written or not jax.config.values["jax_compilation_cache_dir"]
            ):
                _store(path, program)
        return program

    def _path(self, name: str) -> Path | None:
        if not self._folder or files.is_remote(self._folder) or jax.process_count() > 1:
            return None
        key = hashlib.sha256(f"{self._key} {name}".encode()).hexdigest()
        return files.as_local_path(self._folder) / "programs" / f"{name}-{key[:32]}"

    @cached_property
    def _key(self) -> str:
        return json.dumps(
            [
                self._config,
                _source(),
                platform.python_version(),
                {package: metadata.version(package) for package in PACKAGES},
                [str(device) + device.device_kind for device in jax.devices()],
                jax.devices()[0].client.platform_version,
                _cpu(),
                {name: os.environ.get(name) for name in COMPILER_VARIABLES},
                {name: str(value) for name, value in jax.config.values.items()},
            ],
            sort_keys=True,
        )


def _load(path: Path) -> Any:
    """The stored program, or None if it is missing, damaged or refused by this JAX."""
    try:
        digest, content = path.read_bytes().split(b"\n", 1)
        if hashlib.sha256(content).hexdigest().encode() != digest:
            return None
        # Like every compilation cache the folder holds code, so it must be as trusted as the program itself.
        program = serialize_executable.deserialize_and_load(*pickle.loads(content))
        os.utime(path)
    except Exception:  # whatever goes wrong, compiling is right
        return None
    return program


def _store(path: Path, program: Any) -> None:
    """Stores a program if it can be stored. A failure costs only the time to compile it again."""
    shardings = jax.tree.leaves(program.input_shardings)
    if any(len(sharding.device_set) < jax.device_count() for sharding in shardings):
        return  # JAX would load it for all devices
    with suppress(Exception):
        content = pickle.dumps(serialize_executable.serialize(program))
        with files.replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        _remove_old(path.parent)


def _remove_old(folder: Path) -> None:
    newest_first = sorted(folder.iterdir(), key=lambda path: -path.stat().st_mtime)
    total = 0
    for path in newest_first:
        total += path.stat().st_size
        if total > MOST_BYTES:
            path.unlink()


@lru_cache
def _source() -> str:
    """Digest of the source code of this package, and of imported modules that are not installed.

    A config file may import modules of the user's that change what is computed.
    """
    installed = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    imported = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    paths = {Path(name) for name in imported if name.endswith(".py") and not name.startswith(installed)}
    digest = hashlib.sha256()
    for path in sorted(paths | set(Path(__file__).parents[1].rglob("*.py"))):
        digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def _cpu() -> str:
    """The processor's model and instructions: a program for another one may crash."""
    kinds = ("model name", "flags", "CPU implementer", "CPU part", "Features")  # the last three on ARM
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        if found := "".join(next((line for line in lines if line.startswith(kind)), "") for kind in kinds):
            return found
    return platform.processor()
