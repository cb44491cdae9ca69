"""Small file systems that can be full or read-only, for tests that run as root."""

import shutil
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def mounted(folder, options):
    """Mounts a temporary file system at a new folder; skips the test if nothing can be mounted here."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk):
    """Writes a file, `filler`, that takes all space of a disk."""
    with (disk / "filler").open("wb") as file:
        while True:
            try:
                file.write(bytes(2**20))
                file.flush()
            except OSError:
                return
