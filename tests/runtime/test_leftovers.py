"""Temporary files of killed processes are removed, and never those of a process that may still write."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cpnet_jax.runtime import files, leftovers

ROOT = Path(__file__).parents[2]
# Leaves a temporary file behind, as a killed export does.
KILLED = """
import os, signal, sys
from pathlib import Path
from cpnet_jax.runtime import files
with files.replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
OLD = 2 * leftovers.ABANDONED_SECONDS


def age(path):
    os.utime(path, (time.time() - OLD,) * 2)


def test_the_file_of_a_killed_process_is_removed_by_the_next_writer(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.cpnet"], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert len(list(tmp_path.iterdir())) == 1
    files.write_text(tmp_path / "eval.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


def test_files_of_live_processes_and_of_other_machines_stay(tmp_path):
    names = [leftovers.temporary_name(), ".12345678-1-12345678.tmp", ".999999-12345678.tmp", ".a.tmp", "b.tmp"]
    for name in names:
        (tmp_path / name).touch()
    leftovers.remove_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("name", [".12345678-1-12345678.tmp", ".999999-12345678.tmp"])
def test_a_file_without_a_change_for_long_is_removed(tmp_path, name):
    for each in (name, ".mine.tmp"):
        (tmp_path / each).touch()
        age(tmp_path / each)
    leftovers.remove_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.tmp"]


def test_a_folder_is_removed_if_nothing_in_it_has_changed_for_long(tmp_path):
    for name in ("incomplete.A_1.0.0", "incomplete.B_1.0.0", "1.0.0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record").touch()
        age(tmp_path / name / "record")
        age(tmp_path / name)
    (tmp_path / "incomplete.B_1.0.0" / "record").touch()
    leftovers.remove_folders(tmp_path, "incomplete.*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.0.0", "incomplete.B_1.0.0"]
