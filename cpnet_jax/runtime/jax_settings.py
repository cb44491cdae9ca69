"""Process-wide settings of JAX."""

import jax

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files


def configure(compilation_cache: str) -> None:
    """Keeps compiled programs in that folder from run to run; an empty name keeps none.

    Raises:
      UserError: where JAX finds no device to run on.
    """
    try:
        jax.devices()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"JAX finds no device ({reason}): unset JAX_PLATFORMS, or install JAX's build for the device it names"
        ) from error
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(files.as_path(compilation_cache)))
