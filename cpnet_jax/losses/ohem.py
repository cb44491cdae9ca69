"""Bootstrapped cross entropy, or online hard example mining (OHEM): only the hard pixels are learned from.

Hard are the pixels whose class has a probability below a threshold, and in any case the hardest few. Which ones these
are is found without bringing pixels of several devices together, nor sorting them: by counting.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Ohem(NamedTuple):
    """Which pixels are hard.

    Attributes:
      threshold: those whose class has a lower probability are, in [0, 1].
      min_kept: the hardest of a batch that are in any case, times its images, or all labelled ones where there are not
        so many. It is mmsegmentation's `OHEMPixelSampler`, and its 100,000, that count by image; TorchSeg's
        `ProbOhemCrossEntropy2d` counts all images of a GPU.
    """

    threshold: float = 0.7
    min_kept: int = 100_000


def hard_pixels(losses: Float[Array, "b h w"], labelled: Bool[Array, "b h w"], ohem: Ohem) -> Bool[Array, "b h w"]:
    """The pixels to learn from, of the whole batch, on however many devices; without a gradient.

    Args:
      losses: cross entropy of each pixel, -log of the probability of its class; that of others counts for nothing.
      labelled: pixels that have a class.
      ohem: which are hard. Pixels exactly as hard as the last of the hardest `min_kept` are kept with it.

    Raises:
      ValueError: on a threshold that is no probability, or a negative number to keep.
    """
    if not 0 <= ohem.threshold <= 1 or ohem.min_kept < 0:
        raise ValueError(f"ohem is {ohem}: the threshold must be in [0, 1], min_kept at least 0")
    losses = jax.lax.stop_gradient(losses)
    # With abs no loss that rounding has left below 0 has a sign, and no NaN, which thus is kept and seen.
    bits = jax.lax.bitcast_convert_type(jnp.abs(losses), _integers(losses.dtype))
    bits = jnp.where(labelled, bits, -1)
    count = jnp.minimum(labelled.sum(), min(ohem.min_kept * len(losses), losses.size))
    # log(1 / 0) is inf, below which there is nothing.
    with np.errstate(divide="ignore"):
        easy = -np.log(losses.dtype.type(ohem.threshold))
    return labelled & ((bits >= _kth_largest(bits, count)) | ~(losses <= easy))


def _integers(dtype: Any) -> Any:
    return jnp.int64 if dtype == jnp.float64 else jnp.int32


def _kth_largest(values: Int[Array, "..."], k: Int[Array, ""]) -> Int[Array, ""]:
    """The k-th largest of those that are not negative, k of which there are; where k is 0, more than all of them.

    Numbers of as many bits as have a bit set are tried, from the highest bit on: it stays where at least k values are
    as large. Devices exchange one count for each bit.
    """
    bits = jnp.iinfo(values.dtype).bits - 1

    def set_bit(place: Int[Array, ""], found: Int[Array, ""]) -> Int[Array, ""]:
        tried = found | (jnp.ones((), values.dtype) << (bits - 1 - place))
        return jnp.where((values >= tried).sum() >= k, tried, found)

    return jax.lax.fori_loop(0, bits, set_bit, jnp.zeros((), values.dtype))
