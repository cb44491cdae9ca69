"""Training has the same numbers on one device, eight devices and two processes of four, also after a change."""

import json
from functools import cache

import jax
import numpy as np
import pytest
from multihost import train_process
from multihost.processes import run_processes
from multihost.train_process import SAVED, STEPS, Trainer
from raw_data import save

from cpnet_jax import sharding

pytestmark = pytest.mark.long


def write_camvid(folder):
    """Only every eighth example has labels, so that most devices see none in a step."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 1)):
        for place in range(count):
            label = rng.integers(0, 11, (5, 7)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            image = np.clip(20 * label[..., None] + rng.normal(0, 30, (*label.shape, 3)), 0, 255).astype(np.uint8)
            save(folder / split / f"{place:02}.png", image)
            save(folder / f"{split}annot" / f"{place:02}.png", label if place % 8 == 0 else np.full_like(label, 11))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("layouts")
    write_camvid(root / "camvid")
    return root


@cache
def trainer(count, folder):
    """A trainer of one process with this number of devices."""
    make_mesh, devices = sharding.make_mesh, jax.devices()[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda chosen=None: make_mesh(devices if chosen is None else chosen))
        return Trainer(folder)


@pytest.fixture(scope="module")
def eight(folder):
    return trainer(8, folder).train(folder / "eight_devices")


@pytest.fixture(scope="module")
def two_processes(folder, eight):
    """Results of process 0 by name: metrics of every step, and leaves of the final state."""
    for index in range(2):
        (folder / f"process_{index}").mkdir()
    run_processes(train_process.__file__, folder)

    def found(index, name):
        arrays = np.load(folder / f"process_{index}" / f"{name}.npz")
        return json.loads((folder / f"process_{index}" / f"{name}.json").read_text()), list(arrays.values())

    names = ("straight", "resumed", "from_eight_devices")
    first, second = ({name: found(index, name) for name in names} for index in range(2))
    for name in names:
        assert first[name][0] == second[name][0]
        assert all(map(np.array_equal, first[name][1], second[name][1])), "all replicas are the same"
    return first


def assert_same_steps(ours, theirs):
    """Losses agree up to float32 rounding; their terms and the gradient less, because of cancellation."""
    for step, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        for name, value in their.items():
            wanted = pytest.approx(value, rel=1e-5 if name == "loss" else 1e-3, abs=1e-6)
            assert our[name] == wanted, f"{name} at step {step}"


def assert_close(ours, theirs):
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(our, their, atol=1e-4 * np.abs(their).max() + 1e-7)


def test_eight_devices_equal_one(folder, eight):
    history, state = trainer(1, folder).train(folder / "one_device")
    assert len(history) == STEPS
    assert_same_steps(eight[0], history)
    assert_close(eight[1].batch_stats, state.batch_stats)


def test_two_processes_equal_one(eight, two_processes):
    history, leaves = two_processes["straight"]
    assert_same_steps(history, eight[0])
    assert_close(leaves, eight[1])


def test_two_processes_resume_bitwise(two_processes):
    straight, resumed = two_processes["straight"], two_processes["resumed"]
    assert resumed[0] == straight[0][SAVED:]
    assert all(map(np.array_equal, resumed[1], straight[1]))


def test_a_run_resumes_on_another_number_of_devices_or_processes(folder, eight, two_processes):
    later = eight[0][SAVED:]
    assert_same_steps(two_processes["from_eight_devices"][0], later)  # one process -> two
    for count, saved_by in ((8, "two_processes"), (4, "eight_devices"), (8, "one_device")):
        history, _ = trainer(count, folder).train(folder, resume=folder / saved_by)
        assert_same_steps(history, later)
