"""A small run of the whole program, as its users start it, but with the backbone of small_main.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from small_main import CACHE

ROOT = Path(__file__).parents[1]
STEPS = 12


def write_camvid(folder, *, train=12, val=3, test=0, size=(40, 56)):
    """A tree in CamVid's layout; classes are patches of one brightness each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val), ("test", test)):
        for index in range(count):
            label = rng.integers(0, 12, (5, 7)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            image = np.clip(20 * label[..., None] + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
            for suffix, picture in (("", image), ("annot", label)):
                path = folder / f"{split}{suffix}" / f"{split}_{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
    return folder


def command(folder, workdir, *overrides, mode="train"):
    small = {
        "data.source": folder / "camvid",
        "data.dir": folder / "data",
        "data.crop_size": "(32,48)",
        "system.compilation_cache": CACHE,
        "batch_size": 4,
        "total_steps": STEPS,
        "eval_every": 4,
        "checkpoint_every": 2,
        "system.log_every": 1,
        "model.channels": 16,
        "model.aux_channels": 8,
        "model.bfloat16": False,
        "optimizer.base_lr": 0.02,
        "optimizer.warmup_steps": 0,
        "eval.pictures": 2,
    }
    # An override takes the place of what is set here: no field may be given twice.
    given = {override.split("=")[0].removeprefix("--config.") for override in overrides}
    fields = [f"--config.{name}={value}" for name, value in small.items() if name not in given]
    program = [sys.executable, "tests/small_main.py"]
    flags = ["--config=configs/camvid.py", f"--mode={mode}", f"--workdir={workdir}"]
    return [*program, *flags, *fields, *overrides]


def environment(devices):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {"JAX_PLATFORMS": "cpu", **os.environ, "XLA_FLAGS": flags}


def run(*arguments, devices=1):
    arguments = list(map(str, arguments))
    return subprocess.run(arguments, cwd=ROOT, env=environment(devices), capture_output=True, text=True)


def of_run(workdir, *arguments):
    """The command for a run whose config is in its workdir."""
    cache = f"--config.system.compilation_cache={CACHE}"
    return [sys.executable, "tests/small_main.py", f"--workdir={workdir}", cache, *arguments]


def read_metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_is_one_sentence(result, named):
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert named in line
