"""Reading PyTorch weights into CPNet's variables, and writing CPNet's variables as PyTorch weights."""

from cpnet_jax.weights.convert import backbone_variables, cpnet_tensors, cpnet_variables
from cpnet_jax.weights.dilation import check_dilation
from cpnet_jax.weights.input_normalization import InputNormalization, adapt
from cpnet_jax.weights.load import PyTorchWeights, load, read

__all__ = [
    "InputNormalization",
    "PyTorchWeights",
    "adapt",
    "backbone_variables",
    "check_dilation",
    "cpnet_tensors",
    "cpnet_variables",
    "load",
    "read",
]
