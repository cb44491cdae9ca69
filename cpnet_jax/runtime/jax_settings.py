"""JAX's process-wide settings."""

import jax

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files


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
