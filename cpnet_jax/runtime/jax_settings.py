"""JAX's process-wide settings."""

import math
import os
import sys
import warnings
from typing import Any

import jax

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files

# Programs that take longer to compile are kept. JAX's default, a second, leaves out most of evaluation's programs.
CACHED_SECONDS = 0.2
MINIMUM = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
PLATFORM_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
# First words of JAX's warnings about files of its cache.
CACHE_ERRORS = tuple(f"Error {doing} persistent compilation cache entry for " for doing in ("reading", "writing"))
# Settings that a user may have made for other programs. They would change what this one computes, or break it.
REQUIRED = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    # These would end a run at a non-finite step, which training skips, or reports after it has saved the state.
    "jax_debug_nans": False,
    "jax_debug_infs": False,
}


def configure(compilation_cache: str) -> None:
    """Sets the folder that keeps compiled programs between runs; an empty name keeps none.

    Raises:
      UserError: if JAX finds no device.
    """
    _require_settings()
    _find_devices()
    if compilation_cache:
        _keep_programs(files.as_path(compilation_cache))


def _require_settings() -> None:
    for name, value in REQUIRED.items():
        if jax.config.values.get(name, value) != value:  # a later JAX may have dropped the setting
            print(f"Note: {name.upper()} is ignored: this program needs JAX's default, {value}", file=sys.stderr)
            jax.config.update(name, value)


def _find_devices() -> None:
    if platforms := jax.config.values["jax_platforms"]:
        jax.config.update("jax_platforms", platforms.lower().replace(" ", ""))
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a word, if it sees no NVIDIA GPU
        reason = (str(error).splitlines() or ["this machine has none of that kind"])[0]
        named = next((name for name in PLATFORM_VARIABLES if os.environ.get(name)), None)
        if named is None:
            raise UserError(f"JAX finds no device ({reason}): set JAX_PLATFORMS=cpu to compute on the CPU") from error
        raise UserError(
            f"JAX finds no device for {named}={os.environ[named]} ({reason}): unset {named}, or install JAX for the "
            "device that it names"
        ) from error


def _keep_programs(folder: files.AnyPath) -> None:
    if files.make_cache(folder, "config.system.compilation_cache"):
        minimum = CACHED_SECONDS
    elif os.access(folder, os.R_OK | os.X_OK):
        minimum = math.inf  # JAX reads what is there, and would warn about every program that it cannot write
    else:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    _note_cache_errors(folder)
    if MINIMUM not in os.environ or minimum == math.inf:
        jax.config.update(MINIMUM.lower(), minimum)


def _note_cache_errors(folder: files.AnyPath) -> None:
    """Prints one note in place of JAX's warnings about its cache, which are two lines for each program."""
    show, printed = warnings.showwarning, []

    def show_or_note(message: Warning | str, *arguments: Any, **options: Any) -> None:
        if not str(message).startswith(CACHE_ERRORS):
            show(message, *arguments, **options)
        elif not printed:
            printed.append(message)
            reason = str(message).partition("': ")[2]
            advice = "free space there, or delete that folder"
            print(f"Note: {folder} has programs that are compiled again ({reason}): {advice}", file=sys.stderr)

    warnings.showwarning = show_or_note
