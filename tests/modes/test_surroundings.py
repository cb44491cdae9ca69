"""All modes work in surroundings that a cluster or a container may bring."""

import json
import os
import shutil
from pathlib import Path

import forked_program
import numpy as np
import pytest
from PIL import Image

NO_UTF_8 = os.fsdecode(b"caf\xe9")
CLASSES = ("天空", "café", "하늘")
SURROUNDINGS = {
    # An ASCII-only locale, as in containers and cron jobs.
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    # A home that cannot be made.
    "HOME": "/proc/nobody",
    # Settings of JAX for other programs.
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    # An interactive shell in a Slurm job with room for more tasks, in a pod of Kubernetes.
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}


def write_images(folder):
    rng = np.random.default_rng(0)
    for kind, shape, most in (("images", (40, 56, 3), 256), ("masks", (40, 56), len(CLASSES))):
        (folder / kind).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(rng.integers(0, most, shape).astype(np.uint8)).save(folder / kind / f"{index}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")


def commands(folder):
    """Trains for two steps in a folder that a shell has to quote; then uses every other mode on it."""
    workdir = folder / "run 'x' \n"
    fields = {"data.source": folder / "raw", "data.dir": folder / "data", "data.crop_size": "(32,40)"}
    fields |= {"batch_size": 2, "total_steps": 2, "optimizer.warmup_steps": 0, "eval.pictures": 1}
    fields |= {"model.channels": 16, "model.aux_channels": 8, "system.log_every": 1}
    experiment = ["--config=configs/folder.py", *(f"--config.{name}={value}" for name, value in fields.items())]
    run = f"--workdir={workdir}"
    return workdir, {
        "check_data": ["--mode=check_data", *experiment, run],
        "train": [*experiment, run],
        "eval": ["--mode=eval", *experiment, run],
        "predict": ["--mode=predict", run, f"--images={folder / 'photos'}", f"--output={folder / NO_UTF_8}"],
        "export": ["--mode=export", run, f"--output={folder / NO_UTF_8}.cpnet"],
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surroundings")
    write_images(folder / "raw")
    photo = folder / "photos" / f"{NO_UTF_8}.png"
    photo.parent.mkdir()
    shutil.copy(folder / "raw" / "images" / "0.png", photo)
    workdir, given = commands(folder)
    results = forked_program.run_all(given.values(), {**os.environ, **SURROUNDINGS}, "small")
    return Path(workdir), dict(zip(given, results, strict=True))


@pytest.mark.parametrize("mode", ["check_data", "train", "eval", "predict", "export"])
def test_every_mode_works(runs, mode):
    _, results = runs
    assert results[mode].returncode == 0, results[mode].stdout + results[mode].stderr
    lines = results[mode].stderr.splitlines()
    assert "Traceback" not in results[mode].stderr
    assert [line for line in lines if "JAX_ENABLE_X64 is ignored" in line and line.startswith("Note: ")]
    assert [line for line in lines if "/proc/nobody" in line and line.startswith("Note: ")]


def test_names_are_escaped_on_the_terminal_and_whole_in_files(runs):
    workdir, results = runs
    assert r"\u5929\u7a7a" in results["eval"].stdout
    assert set(json.loads((workdir / "eval.json").read_text(encoding="utf-8"))["per_class"]) == set(CLASSES)
    assert "天空" in (workdir / "report" / "index.html").read_text(encoding="utf-8")
