"""A checkpoint whose arrays are not those of its network is refused before memory is allocated for them."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tensorstore
from etils import epath

from cpnet_jax import sharding
from cpnet_jax.errors import UserError
from cpnet_jax.training import checksums
from cpnet_jax.training.checkpoint import Checkpoints

STEP = 2
STATE = {"params": {"kernel": jnp.ones((64, 100))}, "batch_stats": {"mean": jnp.ones(100)}}
HUGE = 10**9


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("arrays") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(STEP, STATE, position=STEP, config={}, miou=None)
    return directory


@pytest.fixture
def directory(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "checkpoints")


def like():
    everywhere = sharding.replicated(sharding.make_mesh())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), STATE)


def sign(directory):
    """Makes the checksums match."""
    folder = epath.Path(directory / str(STEP))
    (folder / checksums.NAME).unlink()
    checksums.write(folder)


def rewrite(directory, key, change):
    store = tensorstore.KvStore.open(
        {"driver": "ocdbt", "base": f"{(directory / str(STEP) / 'state').as_uri()}/"}
    ).result()
    store.write(key, change(store.read(key).result().value)).result()
    sign(directory)


def refusals(directory):
    """What is said to those who train and to those who predict."""
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [STEP]
        with pytest.raises(UserError, match="cannot be read") as training:
            checkpoints.restore(STEP, like())
        with pytest.raises(ValueError) as predicting:
            checkpoints.restore_variables(STEP, like())
    return [str(error.value) for error in (training, predicting)]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [HUGE, HUGE]},
        {"shape": [2**62, 2**62], "chunks": [2**62, 2**62]},
        {"shape": [-64, 100]},
        {"shape": [64, 99], "chunks": [64, 99]},
        {"shape": [6400], "chunks": [6400]},
        {"shape": None},
        {"chunks": [HUGE, HUGE]},
        {"chunks": [64000, 32000]},
        {"chunks": [0, -1]},
        {"chunks": [64]},
        {"dtype": "<i4"},
        {"dtype": "<f8"},
        {"dtype": f"|V{HUGE}"},
        {"dtype": "|O"},
        {"dtype": [["a", "<f4"]]},
    ],
    ids=str,
)
def test_arrays_of_another_kind_are_refused_before_they_are_allocated(directory, change):
    rewrite(directory, "params.kernel/.zarray", lambda text: json.dumps(json.loads(text) | change).encode())
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    before = peak_memory()
    for message in refusals(directory):
        field = "type" if "dtype" in change else "shape"
        assert "params/kernel " in message and f"of {field} " in message and "\n" not in message
    assert peak_memory() - before < 2**18


def peak_memory():
    """KiB of this process."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.parametrize("key", ["params.kernel/.zarray", "params.kernel/0.0"])
@pytest.mark.parametrize("garbage", [b"", b"\0\xff" * 100, b"[" * 10**5], ids=["empty", "bytes", "deep"])
def test_garbage_in_the_store_of_arrays_is_refused(directory, key, garbage):
    rewrite(directory, key, lambda _: garbage)
    assert all(len(message) < 600 and "bound method" not in message for message in refusals(directory))


@pytest.mark.parametrize("garbage", [b"", b"\x0c\xdb\x3a\x2a" + b"\xff" * 100, b"\0" * 10**6])
def test_a_garbage_index_of_the_store_is_refused(directory, garbage):
    (directory / str(STEP) / "state" / "manifest.ocdbt").write_bytes(garbage)
    sign(directory)
    assert all(len(message) < 600 and "tensorstore_spec" not in message for message in refusals(directory))


@pytest.mark.parametrize("kind", ["pipe", "device", "broken link", "loop", "linked folder"])
def test_what_could_be_read_without_end_is_damage(directory, kind):
    step = directory / str(STEP)
    if kind == "linked folder":
        (step / "state" / "more").symlink_to(step, target_is_directory=True)
    else:
        file = step / "config" / "metadata"
        file.unlink()
        if kind == "pipe":
            os.mkfifo(file)
        else:
            file.symlink_to({"device": "/dev/zero", "broken link": "nowhere", "loop": "metadata"}[kind])
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert "is neither a file nor a folder" in checkpoints.damaged[STEP]


@pytest.mark.parametrize("name", ["/dev/zero", "../../../../../../dev/zero", "a\0b", "a" * 5000])
def test_a_list_of_checksums_that_names_files_elsewhere_is_damaged(directory, name):
    file = directory / str(STEP) / checksums.NAME
    *lines, _, _ = file.read_text().split("\n")
    lines.append(f"{'0' * 64}  {name}")
    file.write_text("\n".join([*lines, checksums.END.format(len(lines)), ""]))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.damaged == {STEP: f"{checksums.NAME} is damaged"}


def test_files_that_are_links_to_files_are_read(directory, tmp_path):
    """As in the caches of model hubs."""
    file = directory / str(STEP) / "config" / "metadata"
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [STEP] and checkpoints.config(STEP) == {}
