"""Loads an exported network onto all devices."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from cpnet_jax import sharding
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.value_range import value_range_from
from cpnet_jax.errors import UserError, reason
from cpnet_jax.inference.export import artifact
from cpnet_jax.inference.export.artifact import Artifact, Weights
from cpnet_jax.inference.export.interface import check_interface
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.runtime import memory
from cpnet_jax.runtime.files import AnyPath


def load_exported(path: AnyPath, mesh: Mesh) -> TrainedModel:
    """Loads a file written by `export_model`, for prediction on all devices of the mesh.

    The file may come from a stranger: everything in it is checked before it is run.

    Raises:
      UserError: if the file is missing, damaged, of another kind, or too new for this program or this JAX; if its
        entries contradict each other, or weights are not finite. The model's `logits` raises it, too, if the program
        cannot be compiled or run.
    """
    loaded = artifact.read(path)
    network = deserialise(path, loaded)
    try:
        check_interface(network, loaded.metadata, loaded.weights)
    except Exception as error:  # `network` may hold anything
        raise UserError(f"{path} cannot be used ({reason(error)}): export the network again") from error

    any_size = bool(loaded.metadata.get("any_size"))

    def logits(weights: Weights, windows: UInt8[Array, "b h w 3"], *real: Array) -> Float[Array, "b h/8 w/8 k"]:
        if any_size and not real:
            b, height, width, _ = windows.shape
            real = (jnp.ones((b, height // OUTPUT_STRIDE, width // OUTPUT_STRIDE), bool),)
        return network.call(weights, windows, *real)["logits"]

    # The exported program is for one device, so each device runs it on its own windows.
    run = jax.jit(sharding.per_device(logits, mesh, replicated=1))
    weights = jax.device_put(loaded.weights, sharding.replicated(mesh))

    def guarded(windows: UInt8[Array, "b h w 3"], *real: Array) -> Float[Array, "b h/8 w/8 k"]:
        try:
            return run(weights, windows, *real)
        except Exception as error:  # JAX, MLIR and XLA have no common base class
            if memory.is_lacking(error):
                raise  # the predictor names the fields that help
            raise UserError(
                f"{path} holds a program that cannot be run ({reason(error)}): export the network again"
            ) from error

    return _described(path, loaded.metadata, guarded)


def deserialise(path: AnyPath, loaded: Artifact) -> export.Exported:
    """Deserialises the program; raises UserError if this JAX cannot read it."""
    try:
        network = export.deserialize(bytearray(loaded.program))
        newest = export.maximum_supported_calling_convention_version
        if network.calling_convention_version > newest:
            raise ValueError(f"calling convention {network.calling_convention_version}, known up to {newest}")
        network.mlir_module()  # fails on an unknown version of StableHLO
    except Exception as error:  # flatbuffers, MLIR and JAX have no common base class
        raise UserError(
            f"{path} holds a program that this JAX ({jax.__version__}) cannot read; it was written with JAX "
            f"{loaded.metadata['versions']['jax']}: install that version or a newer one, or export the network again"
        ) from error
    return network


def _described(path: AnyPath, described: Mapping[str, Any], logits: Any) -> TrainedModel:
    """The model of metadata that `artifact.read` has checked."""
    return TrainedModel(
        dataset=Dataset(
            name=described["dataset"],
            classes=tuple(described["classes"]),
            palette=tuple(tuple(colour) for colour in described["palette"]),
            ignore_label=described["ignore_label"],
        ),
        crop_size=tuple(described["crop_size"]),
        mean=tuple(described["mean"]),
        std=tuple(described["std"]),
        value_range=value_range_from(described),
        any_size=bool(described.get("any_size")),
        logits=logits,
        origin={**described["origin"], "file": path.name, "exported": described["date"]},
    )
