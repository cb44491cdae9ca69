"""The losses: pure jnp functions that do not depend on the rest of the package."""

from cpnet_jax.losses.affinity import (
    AffinityLoss,
    AffinityTargets,
    ReadableLoss,
    affinity_loss,
    affinity_loss_to_read,
    downsample_labels,
    ideal_affinity_map,
)
from cpnet_jax.losses.cross_entropy import cross_entropy
from cpnet_jax.losses.ohem import Ohem
from cpnet_jax.losses.total import TERMS, total_loss
from cpnet_jax.losses.upsampled import UpsampledForm, upsampled_cross_entropy

__all__ = [
    "TERMS",
    "AffinityLoss",
    "AffinityTargets",
    "Ohem",
    "ReadableLoss",
    "UpsampledForm",
    "affinity_loss",
    "affinity_loss_to_read",
    "cross_entropy",
    "downsample_labels",
    "ideal_affinity_map",
    "total_loss",
    "upsampled_cross_entropy",
]
