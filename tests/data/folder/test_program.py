"""The whole program on a user's folder."""

import json
import os

import pytest
from forked_program import run_all
from ml_collections import ConfigDict
from small_main import CACHE
from users_folder import MASK, NAMES, coloured, in_colours, repaint, write

from cpnet_jax.config.check import resolve_classes
from cpnet_jax.data import builders
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.errors import UserError


def test_num_classes_0_means_the_datasets_number(tmp_path):
    dataset = builders.describe_folder(write(tmp_path), FolderLayout())
    config = ConfigDict({"data": {"name": "folder", "num_classes": 0}, "loss": {"class_weights": ()}})
    resolve_classes(config, dataset.classes)
    assert config.data.num_classes == 3
    with pytest.raises(UserError, match=r"config\.data\.num_classes is 3: folder has 2"):
        resolve_classes(config, NAMES[:2])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder, how training in it ended): of sound masks, and of one with an unknown colour."""
    sound, faulty = tmp_path_factory.mktemp("sound"), tmp_path_factory.mktemp("faulty")
    write(sound / "own", image="images/berlin/{}.png", mask="masks/berlin/{}_mask.png")
    in_colours(write(faulty / "own"))
    repaint((9, 8, 7), coloured)(faulty / "own")
    small = {
        "data.crop_size": "(32,32)",
        "system.compilation_cache": CACHE,
        "batch_size": 2,
        "total_steps": 2,
        "model.channels": 16,
        "model.aux_channels": 8,
        "model.context_prior": False,  # less to compile
    }
    commands = [
        [
            "--config=configs/folder.py",
            f"--workdir={root}/run",
            f"--config.data.source={root}/own",
            f"--config.data.dir={root}/data",
            *(f"--config.{field}={value}" for field, value in small.items()),
        ]
        for root in (sound, faulty)
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return list(zip((sound, faulty), run_all(commands, environment, "small"), strict=True))


def test_a_users_folder_is_trained_on_with_one_command(runs):
    (folder, result), _ = runs
    assert result.returncode == 0, result.stderr
    evaluation = json.loads((folder / "run/eval.json").read_text())
    assert tuple(evaluation["per_class"]) == NAMES and evaluation["images"] == 1
    assert json.loads((folder / "run/config.json").read_text())["data"]["num_classes"] == 3
    kept = sorted(path.name for path in (folder / "run/predictions/berlin").iterdir())
    assert kept == ["a2_label.png", "a2_panel.png", "a2_prediction.png"]


def test_a_mistake_prints_one_line_and_exits_with_2(runs):
    _, (folder, result) = runs
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "(9, 8, 7)" in line and MASK in line
    assert not (folder / "run").exists() and not list(folder.rglob("*.array_record*"))
