"""A trained network as one file that runs without this code: `jax.export`, numpy and JSON are all it takes."""

from cpnet_jax.inference.export.export import export_model
from cpnet_jax.inference.export.load import load_exported

__all__ = ["export_model", "load_exported"]
