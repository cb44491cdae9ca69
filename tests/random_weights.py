"""Weights of an untrained network whose every part is alive.

The initialisers leave the residual branches out and make the answer nearly the same everywhere.
"""

import jax
import numpy as np


def draw(shapes, seed=0):
    """Values for variables or parameters of those shapes: float32, unit gain, statistics that do not vanish."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
        spread = 0.1 if name in ("bias", "mean") else (2 / np.prod(shape.shape[:-1])) ** 0.5
        if "classifier" in jax.tree_util.keystr(path):
            spread /= 20  # logits of a few units: no saturated softmax
        return rng.normal(0, spread, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
