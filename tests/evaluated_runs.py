"""Small runs with random weights on images of patches, evaluated by the program."""

from pathlib import Path

import jax
import numpy as np
import random_weights
from raw_data import save
from small_main import CACHE

from configs import default
from cpnet_jax.modes.evaluate import evaluate_workdir
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime import files
from cpnet_jax.training.checkpoint import Checkpoints

CROP = (32, 48)
CLASSES = ("sky", "road", "tree")
SIZES = [(40, 56), (32, 48), (24, 60)]
STEP = 7
SEED = 4  # random weights with which the network predicts each class somewhere


def label_of(index: int) -> np.ndarray:
    """Patches of the three classes and of ignored pixels."""
    height, width = SIZES[index % len(SIZES)]
    patches = np.random.default_rng(index).choice([0, 1, 2, 255], (8, 8)).astype(np.uint8)
    return patches.repeat(8, 0).repeat(8, 1)[:height, :width]


def write(root: Path, splits: dict[str, int], table=(0, 1, 2), classes=CLASSES) -> Path:
    """Writes images; class c of `CLASSES` is the value table[c] of the masks."""
    values = np.full(256, 255, np.uint8)
    values[:3] = table
    place = 0
    for split, count in splits.items():
        for index in range(count):
            label, rng = label_of(place), np.random.default_rng([1, place])
            image = np.clip(60 * label[..., None] + rng.normal(0, 30, (*label.shape, 3)), 0, 255).astype(np.uint8)
            save(root / "images" / split / f"{index}.png", image)
            save(root / "masks" / split / f"{index}.png", values[label])
            place += 1
    (root / "classes.txt").write_text("\n".join(classes))
    return root


def config_for(source: Path | str, data_dir: Path, **fields):
    """What a user gives to evaluate: configs/default.py, whose network is another one, and the data."""
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            "data.name": "folder",
            "data.source": str(source),
            "data.dir": str(data_dir),
            "eval.pictures": 1,
            "system.compilation_cache": CACHE,
            **fields,
        }
    )
    return config


def of_run(root: Path, **fields):
    """The config of a run on the images in root/own."""
    network = {"name": "tiny", "batch_size": 8, "total_steps": 9, "data.num_classes": 0, "data.crop_size": CROP}
    network |= {"model.depth": 18, "model.channels": 16, "model.aux_channels": 8, "data.mean": (100.0, 110.0, 120.0)}
    return config_for(root / "own", root / "data", **{**network, **fields})


def make(root: Path, name: str = "run", seed: int = SEED, **fields) -> Path:
    """Makes the folder root/name of a run with random weights, evaluated on its own data."""
    experiment = Experiment(of_run(root, **fields))
    shapes = experiment.abstract_state()
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes).replace(
        params=random_weights.draw(shapes.params, seed), batch_stats=random_weights.draw(shapes.batch_stats, seed)
    )
    with Checkpoints(root / name / "checkpoints") as checkpoints:
        checkpoints.save(STEP, state, position=STEP, config=experiment.description(), miou=None)
    files.write_json(root / name / "config.json", experiment.description())
    evaluate_workdir(of_run(root, **fields), root / name)
    return root / name
