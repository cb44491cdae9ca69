"""Normalises images on the device; batches reach it as uint8."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def normalize(images: UInt8[Array, "b h w 3"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "b h w 3"]:
    """Computes (images - mean) / std per RGB channel; mean and std are in units of 0 .. 255."""
    return (images.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
