"""Process-wide settings of JAX."""

from pathlib import Path

import jax


def configure(compilation_cache: str) -> None:
    """Keeps compiled programs in that folder from run to run; an empty name keeps none."""
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(compilation_cache).expanduser()))
