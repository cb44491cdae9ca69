"""Whatever is in the lock's place is said in one sentence."""

import fcntl
import os

import numpy as np
import pytest

from cpnet_jax.errors import UserError
from cpnet_jax.training.workdir_lock import locked


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)])
def test_something_else_in_the_place_of_the_lock_is_named(tmp_path, make):
    make(tmp_path / "lock")
    with (
        pytest.raises(UserError, match=r"/lock (is not a regular file|cannot be written).*move it away"),
        locked(tmp_path),
    ):
        pass


def held_with(folder, content):
    """What a run says that finds the lock held, with this content."""
    (folder / "lock").write_bytes(content)
    with (folder / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError) as raised, locked(folder):
            pass
    return str(raised.value)


def test_a_held_lock_names_its_holder(tmp_path):
    said = held_with(tmp_path, b'{"host": "node-1", "pid": 42}')
    assert f"{tmp_path} is in use by another run, process 42 on node-1: stop that run" in said


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"null", b"\xff", b"[" * 100_000, b'{"pid": [], "host": 1}', b'{"pid": "x", "host": ""}']
)
def test_a_held_lock_without_a_holder_is_held_all_the_same(tmp_path, content):
    assert held_with(tmp_path, content).startswith(f"{tmp_path} is in use by another run: stop that run")


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_any_content_of_a_held_lock_gives_a_short_sentence(tmp_path, count):
    whole = b'{"host": "node-1", "pid": 42}'
    for seed in range(count):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        place = int(rng.integers(0, len(data)))
        data[place : place + int(rng.integers(0, 9))] = rng.bytes(int(rng.integers(0, 9)))
        assert len(held_with(tmp_path, bytes(data))) < 300 + len(str(tmp_path))
