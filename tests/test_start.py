"""What a start costs, in counts that do not depend on the machine. benchmarks/start.py measures the seconds."""

import json
import os
import subprocess
import sys
import time

import jax
import pytest
from whole_program import ROOT, command, write_camvid

from benchmarks.start import RESULT, STARTED

MOST_MODULES = 2200


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """The result of the probe for a first and for a second run with the same cache."""
    folder = tmp_path_factory.mktemp("start")
    write_camvid(folder / "camvid")
    return [start(folder, folder / name) for name in ("cold", "warm")]


def start(folder, workdir):
    result = folder / "result.json"
    program = command(folder, workdir, "--config.total_steps=2", f"--config.system.compilation_cache={folder}/own")
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = os.environ | quick | {STARTED: str(time.time()), RESULT: str(result)}
    arguments = [argument for argument in program[2:]]
    subprocess.run(
        [sys.executable, "benchmarks/start.py", "--probe", *arguments], cwd=ROOT, env=environment, check=True
    )
    return json.loads(result.read_text()) | {"metrics": (workdir / "metrics.jsonl").read_text().splitlines()}


def test_pytorch_is_not_imported_even_if_it_is_installed(starts):
    assert all(start["counts"]["PyTorch modules"] == 0 for start in starts)


def test_no_more_modules_are_imported_than_training_needs(starts):
    assert all(start["counts"]["modules"] < MOST_MODULES for start in starts)


def test_a_second_start_traces_and_compiles_only_the_initialisation(starts):
    """Its random numbers are drawn on the host, and JAX before 0.12 does not store a program that calls the host."""
    cold, warm = (start["counts"] for start in starts)
    # Cold: initialisation, training step, and the question whether XLA knows an option. JAX before 0.12 also counts a
    # function inside the training step, the rows of the context prior, which it traces while it lowers the step.
    before = jax.__version_info__ < (0, 12)
    assert (cold["programs traced"], cold["programs compiled"]) == (3 + before, 3)
    assert (warm["programs traced"], warm["programs compiled"]) == (1, int(before))
    assert "network" in starts[0]["traced"] and "network" not in starts[1]["traced"]


def test_a_loaded_program_computes_the_same_bits(starts):
    def losses(start):
        return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in start["metrics"]]

    assert losses(starts[0]) == losses(starts[1])


def test_the_devices_hold_the_state_and_the_batches_alone_when_training_starts(starts):
    assert starts[0]["counts"]["arrays on the devices"] == starts[1]["counts"]["arrays on the devices"] < 320
