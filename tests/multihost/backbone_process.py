"""One process of a run that starts from a backbone:  python backbone_process.py FOLDER INDEX COUNT PORT

Each process works in FOLDER/process_INDEX: it reads files there and writes what it loaded.
"""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cpnet_jax import sharding
from cpnet_jax.errors import UserError
from cpnet_jax.models import ResNet
from cpnet_jax.runtime import distributed
from cpnet_jax.weights import InputNormalization
from cpnet_jax.weights.start import StartingPoint, start_from


def backbone_shapes():
    """Shapes of the variables of a network that consists of a ResNet-18 only."""
    like = jax.eval_shape(lambda: ResNet(18, "classic").init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    return {name: {"backbone": tree} for name, tree in like.items()}


def starting_point(backbone):
    normalization = InputNormalization()
    return StartingPoint(backbone, "", (), (), prior_size=None, mean=normalization.mean, std=normalization.std)


def main(folder: str, index: str, count: str, port: str) -> None:
    distributed.start(f"localhost:{port}", int(count), int(index))
    os.chdir(Path(folder) / f"process_{index}")
    mesh = sharding.make_mesh()
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), backbone_shapes())
    initial = sharding.on_every_device(mesh, zeros)
    try:
        start_from(starting_point("absent.safetensors"), initial, mesh)
    except UserError as refused:
        Path("refused.txt").write_text(str(refused))
    variables, lines = start_from(starting_point("resnet18.safetensors"), initial, mesh)
    np.savez("variables.npz", **flatten_dict(jax.device_get(variables), sep="/"))
    Path("lines.json").write_text(json.dumps(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
