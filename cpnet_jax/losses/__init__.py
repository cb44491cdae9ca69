"""The losses: pure jnp functions that do not depend on the rest of the package."""

from cpnet_jax.losses.affinity import (
    AffinityLoss,
    AffinityTargets,
    affinity_loss,
    downsample_labels,
    ideal_affinity_map,
)
from cpnet_jax.losses.cross_entropy import cross_entropy
from cpnet_jax.losses.ohem import Ohem
from cpnet_jax.losses.total import total_loss
from cpnet_jax.losses.upsampled import upsampled_cross_entropy

__all__ = [
    "AffinityLoss",
    "AffinityTargets",
    "Ohem",
    "affinity_loss",
    "cross_entropy",
    "downsample_labels",
    "ideal_affinity_map",
    "total_loss",
    "upsampled_cross_entropy",
]
