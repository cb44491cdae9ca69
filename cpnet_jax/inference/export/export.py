"""A trained network into one file."""

import datetime
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, UInt8

import cpnet_jax
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.normalize import normalize
from cpnet_jax.inference.export import artifact
from cpnet_jax.inference.export.artifact import Artifact
from cpnet_jax.inference.export.load import deserialise
from cpnet_jax.inference.export.program import PLATFORMS, make_network, serialise, weights_for
from cpnet_jax.inference.export.verify import Agreement, verify
from cpnet_jax.models import CPNet
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.runtime import files


def export_model(
    path: Path,
    model: CPNet,
    variables: PyTree,
    *,
    dataset: Dataset,
    crop_size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    origin: dict[str, Any],
) -> Agreement:
    """Writes the file, reads it back and compares it with the live network; only then it gets its name.

    Args:
      path: of the file; what is there is replaced.
      model, variables: the network; {"params": ..., "batch_stats": ...}.
      dataset: whose classes it knows.
      crop_size: (height, width) of the windows it sees.
      mean, std: of the images it was trained on, RGB, 0 .. 255.
      origin: where it comes from, as JSON: experiment, step.

    Raises:
      UserError: where the two differ; no file is left then, and what was there before stays.
    """

    @jax.jit
    def live(windows: UInt8[Array, "b h w 3"]) -> Float[Array, "b h/8 w/8 k"]:
        return model.apply(variables, normalize(windows, mean, std), train=False).logits

    network = make_network(model, mean, std)
    weights = weights_for(model, variables, crop_size)
    metadata = {
        "dataset": dataset.name,
        "classes": list(dataset.classes),
        "palette": [list(map(int, colour)) for colour in dataset.palette],
        "ignore_label": dataset.ignore_label,
        "crop_size": list(crop_size),
        "output_stride": OUTPUT_STRIDE,
        "mean": list(mean),
        "std": list(std),
        "origin": origin,
        "platforms": list(PLATFORMS),
        "versions": {"cpnet_jax": cpnet_jax.__version__, "jax": jax.__version__},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with files.replacing(path) as temporary:
        artifact.write(temporary, Artifact(metadata, serialise(network, weights, crop_size), weights))
        written = artifact.read(temporary)
        return verify(
            partial(jax.jit(deserialise(path, written).call), written.weights),
            live,
            crop_size,
            jnp.dtype(model.dtype or jnp.float32).name,
        )
