"""Random weights with which every part of a network affects its output.

With the initial weights, residual branches are 0 and the output is nearly constant.
"""

import jax
import jax.numpy as jnp
import numpy as np


def draw(shapes, seed=0):
    """Draws float32 variables of these shapes: unit gain, statistics away from 0."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
        spread = 0.1 if name in ("bias", "mean") else (2 / np.prod(shape.shape[:-1])) ** 0.5
        if "classifier" in jax.tree_util.keystr(path):
            spread /= 20  # logits of a few units: no saturated softmax
        return rng.normal(0, spread, shape.shape).astype(np.float32)

    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(leaf, shapes))
