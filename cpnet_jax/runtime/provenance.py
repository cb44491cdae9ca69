"""What a program runs with: its command, code, packages and hardware, for people who want to run it again."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import cpnet_jax
from cpnet_jax.runtime.programs import COMPILER_VARIABLES

# Packages that can change numbers or speed. Those that are not installed are left out.
PACKAGES = (
    *("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "optax", "orbax-checkpoint"),
    *("grain", "numpy", "opencv-python-headless", "pillow", "simplejpeg"),
)
# Environment variables that can change numbers or speed.
VARIABLES = (*COMPILER_VARIABLES, "JAX_DEFAULT_MATMUL_PRECISION", "NVIDIA_TF32_OVERRIDE")
GIT_SECONDS = 5.0


def describe() -> dict[str, Any]:
    """What this process runs with, as JSON; names neither the machine nor the user."""
    devices = jax.devices()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "version": cpnet_jax.__version__,
        **_commit(Path(cpnet_jax.__file__).resolve().parents[1]),
        "python": platform.python_version(),
        "packages": _versions(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "system": f"{platform.system()} {platform.machine()}",
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def command() -> str:
    """The command that started this program, for a shell."""
    program, *arguments = sys.argv
    name = Path(program).name
    start = ["python", name] if name.endswith(".py") else [name]
    return shlex.join([*start, *arguments])


def cpu_model() -> str:
    """The name of the CPU; empty if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit(repository: Path) -> dict[str, Any]:
    """The commit of the code and whether files differ from it; both None outside a clone or without git."""
    head = _git(repository, "rev-parse", "HEAD") if (repository / ".git").exists() else None
    status = _git(repository, "status", "--porcelain", "--untracked-files=no") if head else None
    return {"commit": head, "changed": None if status is None else bool(status)}


def _git(repository: Path, *arguments: str) -> str | None:
    try:
        # --no-optional-locks: another command of the user may be at work in the same clone.
        found = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(repository), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return found.stdout.strip()
