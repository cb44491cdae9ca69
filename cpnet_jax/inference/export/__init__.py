"""Exports a trained network as one file that runs without this package: `jax.export`, numpy and JSON suffice."""

from cpnet_jax.inference.export.export import export_model
from cpnet_jax.inference.export.load import load_exported

__all__ = ["export_model", "load_exported"]
