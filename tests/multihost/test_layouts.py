"""The same numbers on one device, on eight, and on two processes of four; also where a run goes on on another layout."""

import json

import jax
import numpy as np
import pytest
from multihost import train_process
from multihost.processes import run_processes
from multihost.train_process import SAVED, STEPS, Trainer
from raw_data import save

from cpnet_jax import sharding


def write_camvid(folder):
    """Of the examples only every eighth has labels at all: most devices see none in a step."""
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


def on_devices(count, folder, **options):
    """What a single process finds on so many of its devices."""
    make_mesh, devices = sharding.make_mesh, jax.devices()[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda chosen=None: make_mesh(devices if chosen is None else chosen))
        return Trainer(folder).train(folder / f"{count}_devices", **options)


@pytest.fixture(scope="module")
def eight(folder):
    found = on_devices(8, folder)
    (folder / "8_devices").rename(folder / "eight_devices")
    return found


@pytest.fixture(scope="module")
def two_processes(folder, eight):
    """Name -> (metrics of every step, leaves of the final state), as the first process found it."""
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
        assert all(map(np.array_equal, first[name][1], second[name][1])), "replicas stay the same"
    return first


def assert_same_steps(ours, theirs, *, loss=1e-5, terms=1e-4):
    assert len(ours) == len(theirs)
    for step, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        for name, value in their.items():
            wanted = pytest.approx(value, rel=loss if name == "loss" else terms, abs=1e-6)
            assert our[name] == wanted, f"{name} at step {step}"


def assert_close(ours, theirs):
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(our, their, atol=1e-4 * np.abs(their).max() + 1e-7)


def test_eight_devices_equal_one(folder, eight):
    history, state = on_devices(1, folder)
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


def test_a_run_goes_on_on_another_number_of_devices_or_processes(folder, eight, two_processes):
    later = eight[0][SAVED:]
    assert_same_steps(two_processes["from_eight_devices"][0], later)  # one process -> two
    assert_same_steps(on_devices(8, folder, resume=folder / "two_processes")[0], later)  # and back
    assert_same_steps(on_devices(4, folder, resume=folder / "eight_devices")[0], later)
    assert_same_steps(on_devices(8, folder, resume=folder / "4_devices")[0], later)
