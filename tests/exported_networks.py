"""A small CPNet with random weights, to export."""

import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.models import CPNet, PriorOptions, upsample

EXAMPLE = Path(__file__).parents[1] / "examples" / "run_exported_model.py"
CROP = (16, 24)
MEAN, STD = (120.0, 110.0, 100.0), (50.0, 60.0, 70.0)
DATASET = Dataset(
    name="lake",
    classes=("water", "sand", "boat", "sky"),
    palette=((0, 0, 255), (255, 255, 0), (255, 0, 0), (0, 255, 255)),
    ignore_label=200,
)
MODEL = CPNet(
    num_classes=4,
    depth=18,
    prior_size=(2, 3),
    channels=8,
    aux_channels=4,
    prior=PriorOptions(aggregation_kernel=3),
)
DESCRIPTION = {
    "dataset": DATASET,
    "crop_size": CROP,
    "mean": MEAN,
    "std": STD,
    "origin": {"experiment": "x", "step": 7},
}


def trained_variables(model=MODEL, crop=CROP):
    """Random weights, like those of a trained network: no scale is 1 and no bias 0."""
    variables = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, *crop, 3)), train=False))()
    rng = np.random.default_rng(0)

    def trained(path, value):
        if "kernel" in jax.tree_util.keystr(path):
            return np.array(value)
        return rng.uniform(0.2, 0.6, value.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(trained, variables)
    variables["params"]["head"]["classifier"]["kernel"] *= 100  # classes that differ from pixel to pixel
    return variables


def read_program(path):
    """(function, weights), read without this package."""
    file = np.load(path)
    weights = {name.removeprefix("weights/"): file[name] for name in file.files if name.startswith("weights/")}
    return export.deserialize(bytearray(file["model.stablehlo"])), weights


def outputs(logits):
    return {"logits": logits, "classes": jnp.argmax(upsample(logits, CROP), axis=-1).astype(jnp.uint8)}


def one_sentence(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def rewritten(source, path, program=None, **metadata):
    """The file with another program or other metadata; None leaves an entry of the metadata out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "metadata.json":
                changed = json.loads(content) | metadata
                content = json.dumps({key: value for key, value in changed.items() if value is not None})
            new.writestr(name, program if program and name == "model.stablehlo" else content)
    return path
