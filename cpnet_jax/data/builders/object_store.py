"""Copies prepared records from and to an object store.

Training reads single images in random order. Each host therefore works on a local copy: reading from the store in
every epoch would be slow, and stores charge for each request.
"""

import os
import shutil
import tempfile
from pathlib import Path

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.progress import track

# Uploaded last, so its presence means that all files are there.
LAST = "dataset_info.json"


def is_complete(remote: AnyPath) -> bool:
    """Returns whether the folder of prepared records exists and is complete."""
    return (remote / LAST).exists()


def download(remote: AnyPath, local: AnyPath) -> None:
    """Copies a folder from the store atomically; replaces an older copy, and returns at once if the copy is current.

    Raises:
      UserError: if the folder cannot be read or does not fit on the disk.
    """
    if _is_copy(remote, local):
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=local.parent, prefix=".copy-") as folder:
        complete = Path(folder) / local.name
        complete.mkdir()
        for path in track(sorted(remote.iterdir()), f"Copying {remote}", unit="file"):
            _copy(path, complete / path.name)
        shutil.rmtree(local, ignore_errors=True)
        try:
            os.rename(complete, local)
        except OSError:
            # Another process of this host may have finished first.
            if not _is_copy(remote, local):
                raise


def upload(local: AnyPath, remote: AnyPath) -> None:
    """Copies a folder of prepared records to the store; `is_complete` is false until every file is there.

    Raises:
      UserError: if the store cannot be written to.
    """
    # The smallest first, since another process takes a folder without files for a deleted one, see `builders.prepare`.
    paths = sorted(local.iterdir(), key=lambda path: (path.name == LAST, files.size(path)))
    for path in track(paths, f"Copying to {remote}", total=len(paths), unit="file"):
        _copy(path, remote / path.name)


def _is_copy(remote: AnyPath, local: AnyPath) -> bool:
    return (local / LAST).is_file() and (local / LAST).read_bytes() == (remote / LAST).read_bytes()


def _copy(source: AnyPath, target: AnyPath) -> None:
    try:
        with source.open("rb") as data, target.open("wb") as copy:
            shutil.copyfileobj(data, copy, 2**23)
    except Exception as error:  # stores' errors share no base class
        raise UserError(
            f"{source} cannot be copied to {target} ({type(error).__name__}: {error}): check config.data.dir, its "
            "credentials and the free space in config.system.data_cache"
        ) from error
