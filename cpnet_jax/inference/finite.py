"""Refuses networks with values that are not finite."""

import jax
import numpy as np
from jaxtyping import PyTree


def check_finite(weights: PyTree) -> None:
    """Raises ValueError if an array of the tree has a NaN or an infinity; names the first one."""
    for path, array in jax.tree.leaves_with_path(weights):
        if not np.isfinite(jax.device_get(array)).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} has non-finite values")
