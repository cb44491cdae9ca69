"""Exports a trained network into one file."""

import datetime
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, UInt8

import cpnet_jax
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.normalize import normalize
from cpnet_jax.data.value_range import ValueRange
from cpnet_jax.errors import UserError, reason
from cpnet_jax.inference.export import artifact
from cpnet_jax.inference.export.artifact import Artifact
from cpnet_jax.inference.export.interface import check_interface
from cpnet_jax.inference.export.load import deserialise
from cpnet_jax.inference.export.program import PLATFORMS, make_network, serialise, weights_for
from cpnet_jax.inference.export.verify import Agreement, verify, verify_any_size
from cpnet_jax.models import CPNet
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath


def export_model(
    path: AnyPath,
    model: CPNet,
    variables: PyTree,
    *,
    dataset: Dataset,
    crop_size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    value_range: ValueRange | None = None,
    origin: dict[str, Any],
    announce: Callable[[str], None] = lambda stage: None,
) -> Agreement:
    """Writes the file, reads it back and compares it with the live network; then replaces `path` in one step.

    Args:
      path: the file to write.
      model, variables: the network and its variables, {"params": ..., "batch_stats": ...}.
      dataset: its classes, their colours and the ignore label.
      crop_size: (height, width) of its input windows; if the network takes any size, the usual size of windows.
      mean, std: normalisation constants, RGB, in units of 0 .. 255.
      value_range: range of the training images of more than 8 bits, see `TrainedModel`.
      origin: experiment and step that it comes from, as JSON.
      announce: called with what is done next.

    Raises:
      UserError: if the two differ, or `load_exported` would refuse the file. An existing file at `path` then stays as
        it was.
    """

    @jax.jit
    def live(
        windows: UInt8[Array, "b h w 3"], real: Bool[Array, "b h/8 w/8"] | None = None
    ) -> Float[Array, "b h/8 w/8 k"]:
        output: Any = model.apply(variables, normalize(windows, mean, std), train=False, real=real)
        return output.logits

    weights, any_size = weights_for(model, variables, crop_size), model.takes_any_size
    announce(f"tracing the network for {', '.join(PLATFORMS)}")
    program = serialise(make_network(model, mean, std), weights, None if any_size else crop_size)
    metadata = _metadata(dataset, crop_size, mean, std, value_range, origin) | ({"any_size": True} if any_size else {})
    with files.replacing(path) as temporary:
        announce("writing the file and reading it back")
        artifact.write(temporary, Artifact(metadata, program, weights))
        written = artifact.read(temporary)
        network = deserialise(path, written)
        try:
            check_interface(network, written.metadata, written.weights)
        except ValueError as error:
            raise UserError(
                f"this network cannot be exported, since --model would refuse the file ({reason(error)}): write your "
                "own modules without such operations"
            ) from error
        compare = verify_any_size if any_size else verify
        return compare(
            partial(jax.jit(network.call), written.weights),
            live,
            crop_size,
            jnp.dtype(model.dtype or jnp.float32).name,
            announce,
        )


def _metadata(
    dataset: Dataset,
    crop_size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    value_range: ValueRange | None,
    origin: dict[str, Any],
) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "classes": list(dataset.classes),
        "palette": [list(map(int, colour)) for colour in dataset.palette],
        "ignore_label": dataset.ignore_label,
        "crop_size": list(crop_size),
        "output_stride": OUTPUT_STRIDE,
        "mean": list(mean),
        "std": list(std),
        "value_range": value_range and list(value_range),
        "origin": origin,
        "platforms": list(PLATFORMS),
        "versions": {"cpnet_jax": cpnet_jax.__version__, "jax": jax.__version__},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
