"""Images travel as uint8; they become floats on the device."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def normalize(images: UInt8[Array, "b h w 3"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "b h w 3"]:
    """(images - mean) / std per channel; mean and std in units of 0 .. 255, RGB."""
    return (images.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
