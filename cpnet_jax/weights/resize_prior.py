"""The context prior for another crop.

The prior has one output channel a position of the training crop, column j of P for position j. Its convolution and its
BatchNorm are therefore bound to one crop size, and nothing else in the network is. Read as pictures over the grid of
positions, w(y, x) in R^C and scale, bias, mean, var(y, x) in R, they can be drawn at another size, as the position
embeddings of vision transformers are: bilinear, half-pixel centres, positions relative to the crop (the top of the
picture stays the top). What follows from that:

- Rows need nothing: row i of P is computed from the features of position i, wherever that is.
- Nor do the contexts: P X / N is a mean over the positions, whatever their number is.
- The mean of a column's response is linear in the column: the interpolated running mean is exact.
- Its variance w^T S w is not, and S, the covariance of the features, is not in the weights. What is interpolated is
  var / |w|^2, which makes it exact where neighbouring columns agree and where the features are uncorrelated and alike.
  Interpolating var itself gives an upper bound, far too high where neighbours differ: averaging them shortens the
  column. After 60 steps on `scenes` (columns still nearly orthogonal), 8x8 -> 12x12, P had a standard deviation of
  0.22 so, 0.17 with var itself and 0.20 with the statistics of the data; 8x8 -> 5x5, 0.17, 0.09 and 0.20. Training
  normalises by its own batches anyway, and moves the running values to theirs in some twenty steps.
- Shrinking averages over all the old positions that a new one covers (the interpolation's triangle is widened by the
  ratio), where plain interpolation would take 2 x 2 of them and drop the others.
- At the same size nothing happens, bit for bit. Beyond the outermost old centres the edge's values go on.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cpnet_jax.weights.merge import Variables

Size = tuple[int, int]


def resize_prior(variables: Variables, old: Size, new: Size) -> Variables:
    """The variables of a CPNet whose prior is of size `new`, out of those of one whose prior is of size `old`.

    Args:
      variables: {"params": ..., "batch_stats": ...} of the whole network. The prior, or parts of it, may be missing.
      old, new: (h, w) = crop size / 8.

    Raises:
      ValueError: where a parameter of the prior has not h * w columns.
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


def resize_columns(x: Float[Array, "*c n"], old: Size, new: Size) -> Float[Array, "*c m"]:
    """The last axis, a picture of `old` size in row-major order, drawn at size `new`: n = h * w, m = h' * w'.

    Raises:
      ValueError: where `old` has not n positions.
    """
    *leading, n = x.shape
    if n != old[0] * old[1]:
        raise ValueError(f"{n} columns are no grid of {old[0]}x{old[1]}")
    picture = x.reshape(*leading, *old)
    resized = jax.image.resize(picture, (*leading, *new), "bilinear", antialias=True)
    return resized.reshape(*leading, new[0] * new[1])


def _squared_norm(kernel: Float[Array, "c n"]) -> Float[Array, " n"]:
    # A column of zeros has no variance either, whatever it is divided by.
    return jnp.maximum(jnp.square(kernel).sum(axis=0), jnp.finfo(kernel.dtype).tiny)


def _prior(tree: dict[str, Any]) -> dict[str, Any]:
    return tree.get("context", {}).get("prior", {})


def _with_prior(tree: dict[str, Any], prior: dict[str, Any]) -> dict[str, Any]:
    return tree | {"context": tree["context"] | {"prior": prior}} if prior else tree
