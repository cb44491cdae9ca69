"""Loads an exported network onto all devices."""

from functools import partial
from typing import Any

import jax
from jax import export
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from cpnet_jax import sharding
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import artifact
from cpnet_jax.inference.export.artifact import Artifact, Weights
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.runtime.files import AnyPath


def load_exported(path: AnyPath, mesh: Mesh) -> TrainedModel:
    """Loads a file written by `export_model`, for prediction on all devices of the mesh.

    Raises:
      UserError: if the file is missing, damaged, of another kind, or too new for this program or this JAX.
    """
    loaded = artifact.read(path)
    network = deserialise(path, loaded)

    def logits(weights: Weights, windows: UInt8[Array, "b h w 3"]) -> Float[Array, "b h/8 w/8 k"]:
        return network.call(weights, windows)["logits"]

    # The exported program is for one device, so each device runs it on its own windows.
    run = jax.jit(sharding.per_device(logits, mesh, replicated=1))
    weights = jax.device_put(loaded.weights, sharding.replicated(mesh))
    return _described(path, loaded.metadata, partial(run, weights))


def deserialise(path: AnyPath, loaded: Artifact) -> export.Exported:
    """Deserialises the program; raises UserError if this JAX cannot read it."""
    written_with = loaded.metadata.get("versions", {}).get("jax")
    try:
        network = export.deserialize(bytearray(loaded.program))
        newest = export.maximum_supported_calling_convention_version
        if network.calling_convention_version > newest:
            raise ValueError(f"calling convention {network.calling_convention_version}, known up to {newest}")
        network.mlir_module()  # fails on an unknown version of StableHLO
    except Exception as error:  # flatbuffers, MLIR and JAX have no common base class
        raise UserError(
            f"{path} holds a program that this JAX ({jax.__version__}) cannot read; it was written with JAX "
            f"{written_with}: install that version or a newer one, or export the network again"
        ) from error
    return network


def _described(path: AnyPath, metadata: dict[str, Any], logits: Any) -> TrainedModel:
    try:
        dataset = Dataset(
            name=metadata["dataset"],
            classes=tuple(metadata["classes"]),
            palette=tuple(tuple(colour) for colour in metadata["palette"]),
            ignore_label=metadata["ignore_label"],
        )
        return TrainedModel(
            dataset=dataset,
            crop_size=tuple(metadata["crop_size"]),
            mean=tuple(metadata["mean"]),
            std=tuple(metadata["std"]),
            logits=logits,
            origin={**metadata["origin"], "file": path.name, "exported": metadata["date"]},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: its metadata.json has a missing or invalid entry ({error}): export the network again"
        ) from error
