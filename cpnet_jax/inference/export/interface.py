"""Checks that an exported program takes and returns what its file says, and that it only computes."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax import export

from cpnet_jax.inference.export.artifact import Weights
from cpnet_jax.inference.finite import check_finite
from cpnet_jax.inference.metadata import shown
from cpnet_jax.models.cpnet import OUTPUT_STRIDE

# Operations by which a program could reach outside of its arguments and results.
OUTWARD = re.compile(r'"?\w+\.(?:infeed|outfeed|send|recv|custom_call)\b"?(?: @("[^"]*"|[\w$.-]+))?')
# A custom call runs any function that the process has registered, with any arguments. JAX itself writes this one, to
# check the batch size, and removes it before it compiles.
HARMLESS = {"shape_assertion"}
# Platform of a device -> JAX's names of it in an exported program.
PLATFORMS = {"cpu": {"cpu"}, "gpu": {"cuda", "rocm"}, "tpu": {"tpu"}}


def check_interface(network: export.Exported, described: Mapping[str, Any], weights: Weights) -> None:
    """Checks a program of unknown origin against the metadata and the weights of its file.

    Raises:
      ValueError: if it takes or returns something else, cannot run here, or has operations besides computations.
    """
    any_size = bool(described.get("any_size"))
    match jax.tree.unflatten(network.in_tree, network.in_avals):
        case ((dict() as wanted, windows, *real), dict() as named) if len(real) == any_size and not named:
            _check_weights(wanted, weights)
        case _:
            raise ValueError(f"its program does not take weights and windows{' and real positions' * any_size}")
    shape = tuple(windows.shape)
    if len(shape) != 4 or not export.is_symbolic_dim(shape[0]) or windows.dtype != "uint8":
        raise ValueError(f"its program does not take a batch of images but {windows}")
    if any_size:
        rows, columns = _check_any_size(shape, real[0])
    else:
        height, width = described["crop_size"]
        rows, columns = height // OUTPUT_STRIDE, width // OUTPUT_STRIDE
        if shape[1:] != (height, width, 3):
            raise ValueError(f"its program takes windows of {shape[1:]}, but crop_size is {[height, width]}")
    _check_results(
        jax.tree.unflatten(network.out_tree, network.out_avals),
        logits=(shape[0], rows, columns, len(described["classes"])),
        classes=shape[:3],
    )
    _check_surroundings(network)
    for operation in OUTWARD.finditer(network.mlir_module()):
        if operation[1] not in HARMLESS:
            raise ValueError(f"its program has an operation besides computations, {shown(operation[0])}")


def _check_any_size(shape: tuple[Any, ...], real: Any) -> tuple[Any, Any]:
    """Checks that images may have any size in multiples of 8; returns their height and width at output stride 8."""
    if len(real.shape) != 3 or real.dtype != "bool":
        raise ValueError(f"its program does not take which positions are real but {real}")
    batch, rows, columns = real.shape
    different = len(set(map(str, real.shape))) == 3 and all(map(export.is_symbolic_dim, real.shape))
    if not different or shape != (batch, OUTPUT_STRIDE * rows, OUTPUT_STRIDE * columns, 3):
        raise ValueError(f"its program takes images of {shape[1:]}, but any_size is true")
    return rows, columns


def _check_weights(wanted: Mapping[str, Any], weights: Weights) -> None:
    if missing := wanted.keys() - weights.keys():
        raise ValueError(f"its program needs the weight {shown(min(missing))}, which is missing")
    if unused := weights.keys() - wanted.keys():
        raise ValueError(f"its program does not take the weight {shown(min(unused))}")
    for name, array in weights.items():
        if (array.shape, array.dtype) != (wanted[name].shape, wanted[name].dtype):
            raise ValueError(
                f"the weight {shown(name)} is {array.dtype}{array.shape}, its program takes {wanted[name]}"
            )
    check_finite(weights)


def _check_results(results: Any, **shapes: tuple[Any, ...]) -> None:
    if not isinstance(results, dict) or results.keys() != shapes.keys():
        raise ValueError(f"its program does not return {' and '.join(shapes)}")
    for name, shape in shapes.items():
        if tuple(results[name].shape) != shape:
            raise ValueError(f"its program returns {name} of {results[name].shape}, its metadata say {shape}")
    kinds = {name: result.dtype.name for name, result in results.items()}
    if kinds != {"logits": "float32", "classes": "uint8"}:
        raise ValueError(f"its program returns values of {kinds}")


def _check_surroundings(network: export.Exported) -> None:
    here = jax.default_backend()
    if not PLATFORMS.get(here, {here}) & set(network.platforms):
        raise ValueError(f"its program is for {', '.join(network.platforms)}, and these devices are {here}")
    if network.nr_devices != 1 or network.ordered_effects or network.unordered_effects:
        raise ValueError("its program is not a function of one device")
