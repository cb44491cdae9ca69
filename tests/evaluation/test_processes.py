"""An evaluation has the same result with one process as with two."""

import json
import shutil

import jax
import numpy as np
import pytest
import random_weights
from evaluation import evaluate_process
from multihost.processes import finish, free_port, start
from raw_data import save

from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("small_backbone_in_module")
# An odd number of images of several sizes: two processes have different numbers of images and of windows.
SIZES = [(40, 56), (32, 48), (70, 90), (24, 100), (33, 49)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared data and the workdir of a run whose weights are random in every layer."""
    root = tmp_path_factory.mktemp("processes")
    write_camvid(root / "camvid")
    config = evaluate_process.get_config(root)
    experiment = Experiment(config)
    shapes = experiment.abstract_state()
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes).replace(
        params=random_weights.draw(shapes.params), batch_stats=random_weights.draw(shapes.batch_stats)
    )
    with Checkpoints(root / "run" / "checkpoints") as checkpoints:
        checkpoints.save(1, state, position=1, config=experiment.description(), miou=None)
    return root


def write_camvid(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for place, size in enumerate(SIZES):
            label = rng.integers(0, 12, (13, 13)).astype(np.uint8).repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
            image = np.clip(20 * label[..., None] + rng.normal(0, 30, (*size, 3)), 0, 255).astype(np.uint8)
            save(folder / split / f"{place}.png", image)
            save(folder / f"{split}annot" / f"{place}.png", label)


def evaluated(folder, count):
    """(eval.json, names of all written files, the panels) of an evaluation by `count` processes."""
    workdir = folder / f"run_{count}"
    shutil.copytree(folder / "run", workdir)
    port = free_port()
    ended = finish([start(evaluate_process.__file__, folder, workdir, index, count, port) for index in range(count)])
    assert [status for status, *_ in ended] == [0] * count, ended[0][2] + ended[-1][2]
    tables = ["mIoU" in out for _, out, _ in ended]
    assert tables == [True] + [False] * (count - 1), "one process prints the table, for all of them"
    written = sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*"))
    panels = {path.name: path.read_bytes() for path in (workdir / "predictions").iterdir()}
    return json.loads((workdir / "eval.json").read_text()), written, panels


def test_two_processes_equal_one(folder):
    one, files, panels = evaluated(folder, 1)
    assert one["images"] == len(SIZES)
    assert len([iou for iou in one["per_class"].values() if iou]) > 2, "a network that says something"
    assert len(panels) == 2 * 3 + 1, "two pictures, with labels and predictions, and their index"
    assert evaluated(folder, 2) == (one, files, panels)
