"""Damage to any file of a checkpoint is detected and reported, and an older checkpoint is used."""

import os
import shutil
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from cpnet_jax.errors import UserError
from cpnet_jax.training import checksums
from cpnet_jax.training.checkpoint import Checkpoints

NEWEST, OLDER = 4, 2


def save(checkpoints, step, miou=None):
    rng = np.random.default_rng(step)
    state = {"weights": jnp.asarray(rng.normal(size=(300, 200)), jnp.float32), "step": jnp.array(step)}
    checkpoints.save(step, state, position=step, config={"seed": 0}, miou=miou)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder with two whole checkpoints: step 2, the best, and step 4, the newest."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, OLDER, miou=0.5)
        save(checkpoints, NEWEST, miou=0.4)
    return directory


@pytest.fixture
def directory(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "checkpoints")


def files(directory):
    return sorted(path for path in (directory / str(NEWEST)).rglob("*") if path.is_file())


def flip(path):
    data = bytearray(path.read_bytes())
    place = np.random.default_rng(len(data)).integers(len(data))
    data[place] ^= 1 << np.random.default_rng(place).integers(8)
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damage_to_any_file_is_detected_and_the_older_checkpoint_used(whole, tmp_path, capsys, damage):
    names = [path.relative_to(whole) for path in files(whole)]
    assert len(names) > 10
    for number, name in enumerate(names):
        if damage is Path.unlink and name.name == "SHA256SUMS":
            continue  # tested separately below
        directory = shutil.copytree(whole, tmp_path / str(number))
        damage(directory / name)
        with Checkpoints(directory, read_only=True) as checkpoints:
            assert checkpoints.steps() == [OLDER], name
            assert checkpoints.latest() == checkpoints.best() == OLDER
            assert checkpoints.damaged.keys() == {NEWEST}
        assert f"{directory / str(NEWEST)} is damaged and skipped: " in capsys.readouterr().err
        shutil.rmtree(directory)


def test_a_list_of_checksums_truncated_anywhere_is_damaged(tmp_path):
    for name in ("a", "b/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    folder = epath.Path(tmp_path)
    checksums.write(folder)
    assert checksums.damage(folder) is None
    written = (tmp_path / checksums.NAME).read_bytes()
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "--strict", checksums.NAME], cwd=tmp_path, check=True)
    for length in range(len(written)):
        (tmp_path / checksums.NAME).write_bytes(written[:length])
        assert checksums.damage(folder) == f"{checksums.NAME} is damaged", length


def test_a_checkpoint_without_checksums_is_damaged(directory, capsys):
    (directory / str(NEWEST) / "SHA256SUMS").unlink()
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest() == OLDER
    assert f"{NEWEST} is damaged and skipped: SHA256SUMS is missing" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_set_aside_and_its_step_saved_again(directory, capsys):
    for count in (1, 2):
        flip(max(files(directory), key=lambda path: path.stat().st_size))
        with Checkpoints(directory) as checkpoints:
            assert checkpoints.latest() == OLDER
            save(checkpoints, NEWEST)
        assert len(list(directory.glob(f"{NEWEST}.damaged*"))) == count
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps() == [OLDER, NEWEST] and not checkpoints.damaged
    assert f"renamed to {NEWEST}.damaged.2" in capsys.readouterr().err


def test_a_reader_changes_nothing(directory):
    flip(files(directory)[0])
    before = sorted(directory.rglob("*"))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.latest() == OLDER
    assert sorted(directory.rglob("*")) == before


def test_empty_folders_and_unfinished_writes_are_not_checkpoints(directory, capsys):
    (directory / "6").mkdir()
    shutil.copytree(directory / str(NEWEST), directory / "8.orbax-checkpoint-tmp")
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest() == NEWEST
        save(checkpoints, 6)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest() == 6
    said = capsys.readouterr().err
    assert "6 is damaged and skipped: commit_success.txt is missing" in said
    assert "8.orbax-checkpoint-tmp is removed: it is an unfinished checkpoint" in said
    assert not (directory / "8.orbax-checkpoint-tmp").exists()


def test_without_a_whole_checkpoint_there_is_no_latest(directory):
    for step in (OLDER, NEWEST):
        flip(directory / str(step) / "SHA256SUMS")
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest() is None and checkpoints.best() is None


@pytest.mark.parametrize("name", ["04", "000004", "00", "1٠", "٤"])  # noqa: RUF001
def test_another_spelling_of_a_step_is_ignored_and_said(directory, capsys, name):
    shutil.copytree(directory / str(OLDER), directory / name)
    for read_only in (True, False):
        with Checkpoints(directory, read_only=read_only) as checkpoints:
            assert checkpoints.steps() == [OLDER, NEWEST] and not checkpoints.damaged
            assert checkpoints.best() == OLDER
        said = capsys.readouterr().err
        assert f"Note: {directory / name} is ignored: the checkpoint of step {int(name)} is named {int(name)}" in said


def test_a_copy_under_another_step_is_damaged(directory, capsys):
    shutil.copytree(directory / str(NEWEST), directory / "7")
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest() == NEWEST and checkpoints.damaged.keys() == {7}
        save(checkpoints, 7)
    assert (
        f"7 is damaged and skipped: it is the checkpoint of step {NEWEST}; renamed to 7.damaged"
        in capsys.readouterr().err
    )


def test_checkpoints_that_are_a_file_are_named(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match="checkpoints is not a folder"):
        Checkpoints(epath.Path(tmp_path / "checkpoints"))


JSON = [
    "config/metadata",
    "data/metadata",
    "metrics/metrics",
    "state/_METADATA",
    "_CHECKPOINT_METADATA",
    "state/manifest.ocdbt",
]


def mutated(data, rng):
    content = bytearray(data)
    place, length = int(rng.integers(0, len(content))), int(rng.integers(1, 9))
    content[place : place + length * int(rng.integers(0, 2))] = rng.bytes(int(rng.integers(0, 9)))
    return bytes(content)


def hostile(name, kind, data, rng):
    """Another content of a checkpoint's JSON file: random changes, or what a program does not expect."""
    return {
        "mutated": lambda: mutated(data, rng),
        "empty": lambda: b"",
        "a number": lambda: b"1",
        "a list": lambda: b"[1, 2]",
        "null": lambda: b"null",
        "deep": lambda: b"[" * 100_000,
        "a long number": lambda: b'{"position": 1' + b"0" * 5000 + b"}",
    }[kind]()


def read_everything(directory):
    """Reads a folder of checkpoints as training and prediction do; what it refuses, it refuses by UserError."""
    like = {"weights": jnp.zeros((300, 200)), "step": jnp.array(0)}
    try:
        with Checkpoints(directory, read_only=True) as checkpoints:
            checkpoints.best()
            step = checkpoints.latest()
            assert isinstance(checkpoints.config(step), dict)
            checkpoints.restore(step, like)
        with Checkpoints(directory) as checkpoints:
            save(checkpoints, step + 1, miou=0.3)
    except UserError as error:
        message = str(error)
        assert str(directory) in message and "\n" not in message and len(message) < 1000, message
        return False
    return True


def try_hostile(whole, folder, cases):
    """Reads checkpoints with hostile files and right checksums; returns how many were read and refused."""
    counts = {True: 0, False: 0}
    for seed, (name, kind) in enumerate(cases):
        rng = np.random.default_rng(seed)
        directory = shutil.copytree(whole, folder / "hostile")
        path = directory / str(NEWEST) / name
        path.write_bytes(hostile(name, kind, path.read_bytes(), rng))
        (directory / str(NEWEST) / checksums.NAME).unlink()
        checksums.write(epath.Path(directory / str(NEWEST)))
        counts[read_everything(directory)] += 1
        shutil.rmtree(directory)
    return counts


@pytest.mark.parametrize("name", JSON)
def test_hostile_files_with_right_checksums_are_read_or_refused(whole, tmp_path, name):
    kinds = ["empty", "a number", "a list", "null", "deep", "a long number", *["mutated"] * 10]
    counts = try_hostile(whole, tmp_path, [(name, kind) for kind in kinds])
    assert sum(counts.values()) == len(kinds)


@pytest.mark.long
def test_many_hostile_files_with_right_checksums_are_read_or_refused(whole, tmp_path):
    cases = [(name, "mutated") for name in JSON for _ in range(10_000 // len(JSON))]
    print(try_hostile(whole, tmp_path, cases))
