"""A workdir records every start of its run: command, commit, versions and hardware."""

import json
import subprocess
import sys

import jax
import pytest

from cpnet_jax.runtime import provenance
from cpnet_jax.training import starts


def test_every_start_is_added(tmp_path):
    starts.record(tmp_path, 0)
    starts.record(tmp_path, 40)
    first, second = starts.starts(tmp_path)
    assert (first["step"], second["step"]) == (0, 40)
    assert second["packages"]["jax"] == jax.__version__
    assert second["devices"] == jax.device_count() and second["python"].startswith("3.")


def test_variables_that_change_what_is_compiled_are_recorded_if_they_are_set(tmp_path, monkeypatch):
    for name in provenance.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    starts.record(tmp_path, 0)
    assert starts.starts(tmp_path)[0]["environment"] == {"NVIDIA_TF32_OVERRIDE": "0"}


def test_the_first_and_the_newest_starts_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "MOST", 3)
    monkeypatch.setattr(provenance, "describe", dict)
    for step in range(6):
        starts.record(tmp_path, step)
    assert [start["step"] for start in starts.starts(tmp_path)] == [0, 4, 5]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"time": 1}]', b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_as_none(tmp_path, content):
    (tmp_path / starts.NAME).write_bytes(content)
    assert starts.starts(tmp_path) == []


def test_the_command_can_be_pasted_into_a_shell(monkeypatch):
    arguments = ["--workdir=a b", '--config.name=it\'s "$HOME"', "--config.data.crop_size=(32,48)"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/main.py", *arguments])
    shown = provenance.command()
    assert shown.startswith("python main.py ")
    echo = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))'"
    printed = subprocess.check_output(shown.replace("python main.py", echo, 1), shell=True)
    assert json.loads(printed) == arguments


def test_the_commit_is_that_of_the_clone_and_says_whether_files_differ(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
        return subprocess.check_output(["git", "-C", tmp_path, *identity, *arguments], text=True).strip()

    assert provenance._commit(tmp_path) == {"commit": None, "changed": None}
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    assert provenance._commit(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("2")
    assert provenance._commit(tmp_path)["changed"] is True
