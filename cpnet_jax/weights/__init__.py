"""Weights from PyTorch and for PyTorch: files, layouts, and what of a network they are."""

from cpnet_jax.weights.convert import backbone_variables, cpnet_tensors, cpnet_variables
from cpnet_jax.weights.dilation import check_dilation
from cpnet_jax.weights.load import Weights, load, read
from cpnet_jax.weights.pixels import Pixels, adapt

__all__ = [
    "Pixels",
    "Weights",
    "adapt",
    "backbone_variables",
    "check_dilation",
    "cpnet_tensors",
    "cpnet_variables",
    "load",
    "read",
]
