"""Small priors and labels for tests of the affinity loss."""

import numpy as np

from cpnet_jax import models

KINDS = ("logits", "factors")


def make_labels(ignore_label=255, dtype=np.int32):
    """Four images of 16 positions: mixed; ignored positions and a class of one pixel; one class; no label.

    A mean over a power of two is exact.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 16))
    labels[1, :5] = ignore_label
    labels[1, 9] = 254
    labels[2] = 7
    labels[3] = ignore_label
    return labels.astype(dtype)


def make_prior(kind, dtype, shape=(4, 16), channels=6, scale=1.5, seed=1):
    """The arrays of a prior of this kind, as a tuple for `build`."""
    rng = np.random.default_rng(seed)
    batch, n = shape
    if kind == "logits":
        return (scale * rng.normal(size=(batch, n, n)).astype(dtype),)
    sizes = (batch, n, channels), (channels, n), (n,)
    return tuple((scale * rng.normal(size=size) / size[0] ** 0.25).astype(dtype) for size in sizes)


def build(arrays):
    # Blocks that do not divide 16 positions.
    return arrays[0] if len(arrays) == 1 else models.PriorFactors(*arrays, block_rows=6)
