"""From the file of an exported network to something that predicts, on all devices."""

from functools import partial
from pathlib import Path
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


def load_exported(path: Path, mesh: Mesh) -> TrainedModel:
    """The network of a file that --mode=export has written.

    Raises:
      UserError: where the file is missing, damaged, something else, or newer than this program or this JAX can read.
    """
    loaded = artifact.read(path)
    network = deserialise(path, loaded)

    def logits(weights: Weights, windows: UInt8[Array, "b h w 3"]) -> Float[Array, "b h/8 w/8 k"]:
        return network.call(weights, windows)["logits"]

    # What is exported is a program for one device: each runs it on its own windows.
    run = jax.jit(sharding.per_device(logits, mesh, replicated=1))
    weights = jax.device_put(loaded.weights, sharding.replicated(mesh))
    return _described(path, loaded.metadata, partial(run, weights))


def deserialise(path: Path, loaded: Artifact) -> export.Exported:
    """Raises UserError where this JAX cannot read the program."""
    written_with = loaded.metadata.get("versions", {}).get("jax")
    try:
        network = export.deserialize(bytearray(loaded.program))
        newest = export.maximum_supported_calling_convention_version
        if network.calling_convention_version > newest:
            raise ValueError(f"calling convention {network.calling_convention_version}, known up to {newest}")
        network.mlir_module()  # its version of StableHLO is read here
    except Exception as error:  # whatever flatbuffers, MLIR or JAX raise on what they do not know
        raise UserError(
            f"{path} holds a program that this JAX ({jax.__version__}) cannot read; it was written with JAX "
            f"{written_with}: install that version or a newer one, or export anew"
        ) from error
    return network


def _described(path: Path, metadata: dict[str, Any], logits: Any) -> TrainedModel:
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
        raise UserError(f"{path}: its metadata.json lacks or garbles {error}: export anew") from error
