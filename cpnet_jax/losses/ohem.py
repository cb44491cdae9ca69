"""Bootstrapped cross entropy, or online hard example mining (OHEM): only hard pixels contribute to the loss.

A pixel is hard if its class has a probability below a threshold. A minimum number of pixels, the hardest, is always
kept. They are found by counting, without sorting pixels or gathering them from several devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Ohem(NamedTuple):
    """Options of online hard example mining.

    Attributes:
      threshold: pixels whose class has a lower probability are hard, in [0, 1].
      min_kept: lower bound on pixels kept per image, pooled over the batch. mmsegmentation's `OHEMPixelSampler` counts
        by image, too, with 100,000; TorchSeg's `ProbOhemCrossEntropy2d` counts all images of a GPU together.
    """

    threshold: float = 0.7
    min_kept: int = 100_000


def hard_pixels(losses: Float[Array, "b h w"], labelled: Bool[Array, "b h w"], ohem: Ohem) -> Bool[Array, "b h w"]:
    """Selects the hard pixels of the whole batch, on any number of devices; without a gradient.

    Args:
      losses: cross entropy of each pixel, -log of the probability of its class; ignored for pixels without a class.
      labelled: whether a pixel has a class.
      ohem: the options. Ties with the easiest of the `min_kept` hardest pixels are kept, too.

    Raises:
      ValueError: if the threshold is not in [0, 1], or `min_kept` is negative.
    """
    if not 0 <= ohem.threshold <= 1 or ohem.min_kept < 0:
        raise ValueError(f"ohem is {ohem}: the threshold must be in [0, 1], min_kept at least 0")
    losses = jax.lax.stop_gradient(losses)
    # Without a sign, floats are ordered as their bits are. Rounding can make a loss negative; a NaN can have a sign.
    # A NaN counts as hardest, so it is kept and shows in the loss.
    bits = jax.lax.bitcast_convert_type(jnp.abs(losses), _integers(losses.dtype))
    bits = jnp.where(labelled, bits, -1)
    count = jnp.minimum(labelled.sum(), min(ohem.min_kept * len(losses), losses.size))
    # A threshold of 0 makes -log(0) = inf: no pixel is hard by it.
    with np.errstate(divide="ignore"):
        easy = -np.log(losses.dtype.type(ohem.threshold))
    return labelled & ((bits >= _kth_largest(bits, count)) | ~(losses <= easy))


def _integers(dtype: Any) -> Any:
    return jnp.int64 if dtype == jnp.float64 else jnp.int32


def _kth_largest(values: Int[Array, "..."], k: Int[Array, ""]) -> Int[Array, ""]:
    """The k-th largest value, k of which must not be negative; if k is 0, a number above all values.

    Sets the bits of the result from the highest to the lowest. A bit stays set if at least k values are as large as the
    result so far. Devices exchange one count for each bit.
    """
    bits = jnp.iinfo(values.dtype).bits - 1

    def set_bit(place: Int[Array, ""], found: Int[Array, ""]) -> Int[Array, ""]:
        tried = found | (jnp.ones((), values.dtype) << (bits - 1 - place))
        return jnp.where((values >= tried).sum() >= k, tried, found)

    return jax.lax.fori_loop(0, bits, set_bit, jnp.zeros_like(k, values.dtype))
