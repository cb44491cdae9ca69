"""JAX's process-wide settings."""

import os

import jax

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files

# Programs that take longer to compile are kept. JAX's default, a second, leaves out most of evaluation's programs.
CACHED_SECONDS = 0.2
MINIMUM = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def configure(compilation_cache: str) -> None:
    """Sets the folder that keeps compiled programs between runs; an empty name keeps none.

    Raises:
      UserError: if JAX finds no device.
    """
    try:
        jax.devices()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"JAX finds no device ({reason}): unset JAX_PLATFORMS, or install JAX for the device that it names"
        ) from error
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(files.as_path(compilation_cache)))
        if MINIMUM not in os.environ:
            jax.config.update(MINIMUM.lower(), CACHED_SECONDS)
