"""Resizes the context prior to another crop size.

The prior has one output channel for each position of the training crop: column j of P for position j. So its
convolution and its BatchNorm depend on the crop size; nothing else in the network does. Over the grid of positions,
the columns w(y, x) in R^C and scale, bias, mean, var(y, x) in R are pictures. They are interpolated like the position
embeddings of vision transformers: bilinear, half-pixel centres, positions relative to the crop.

- The rows stay: row i of P is computed from the features of position i.
- The contexts stay: P X / N is a mean over any number of positions.
- The running mean is exact, since the mean of a column's response is linear in the column.
- The running variance is approximate. It is w^T S w, and the covariance S of the features is not in the weights.
  Interpolating var / |w|^2 is exact if neighbouring columns agree, or if features are uncorrelated with equal variance.
  Interpolating var itself gives an upper bound, which is far too high if neighbours differ: averaging them shortens the
  column. Measured after 60 steps on `scenes` (columns still nearly orthogonal), as standard deviation of P:
  8x8 -> 12x12: 0.22 by var / |w|^2, 0.17 by var, 0.20 with the statistics of the data; 8x8 -> 5x5: 0.17, 0.09, 0.20.
  Training normalises by its own batches and corrects the running values in about twenty steps.
- Shrinking averages over all old positions that a new one covers (antialiasing).
- The same size leaves every bit as it is. Beyond the outermost old centres, values are those of the edge.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cpnet_jax.weights.merge import Variables

Size = tuple[int, int]


def resize_prior(variables: Variables, old: Size, new: Size) -> Variables:
    """Resizes the context prior in the variables of a CPNet.

    Args:
      variables: {"params": ..., "batch_stats": ...} of the whole network. The prior, or parts of it, may be missing.
      old, new: (h, w) = crop size / 8.

    Raises:
      ValueError: if a parameter of the prior does not have h * w columns.
    """
    params, statistics = (_prior(variables[name]) for name in ("params", "batch_stats"))
    if tuple(old) == tuple(new) or not (params or statistics):
        return variables
    resized_params = {name: resize_columns(leaf, old, new) for name, leaf in params.items()}
    resized_statistics = {name: resize_columns(leaf, old, new) for name, leaf in statistics.items()}
    if "kernel" in params and "var" in statistics:
        per_norm = resize_columns(statistics["var"] / _squared_norm(params["kernel"]), old, new)
        resized_statistics["var"] = per_norm * _squared_norm(resized_params["kernel"])
    return {
        "params": _with_prior(variables["params"], resized_params),
        "batch_stats": _with_prior(variables["batch_stats"], resized_statistics),
    }


def resize_columns(x: Float[Array | np.ndarray, "*c n"], old: Size, new: Size) -> Float[Array, "*c m"]:
    """Interpolates the last axis, a grid of size `old` in row-major order, to size `new`: n = h * w, m = h' * w'.

    Raises:
      ValueError: if `old` does not have n positions.
    """
    *leading, n = x.shape
    if n != old[0] * old[1]:
        raise ValueError(f"{n} columns are not a grid of {old[0]}x{old[1]}")
    picture = x.reshape(*leading, *old)
    resized = jax.image.resize(picture, (*leading, *new), "bilinear", antialias=True)
    return resized.reshape(*leading, new[0] * new[1])


def _squared_norm(kernel: Float[Array | np.ndarray, "c n"]) -> Float[Array, " n"]:
    # The variance of a zero column is 0 as well, so that the divisor does not matter.
    return jnp.maximum(jnp.square(kernel).sum(axis=0), jnp.finfo(kernel.dtype).tiny)


def _prior(tree: dict[str, Any]) -> dict[str, Any]:
    return tree.get("context", {}).get("prior", {})


def _with_prior(tree: dict[str, Any], prior: dict[str, Any]) -> dict[str, Any]:
    return tree | {"context": tree["context"] | {"prior": prior}} if prior else tree
