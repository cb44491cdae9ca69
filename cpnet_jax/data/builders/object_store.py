"""Prepared records in an object store. Training reads them in any order, an image at a time, so every host works on a
copy of its own: fetching each image from the store in every epoch would be slow, and counted."""

import os
import shutil
import tempfile
from pathlib import Path

from cpnet_jax.errors import UserError
from cpnet_jax.runtime.progress import track

# Uploaded after all others: where it is, they are.
LAST = "dataset_info.json"


def is_whole(remote: Path) -> bool:
    """Whether the folder of prepared records is there, and whole."""
    return (remote / LAST).exists()


def download(remote: Path, local: Path) -> None:
    """Copies a whole folder, in one step as seen from here, unless its copy is there already; replaces an older one.

    Raises:
      UserError: where it cannot be read, or there is no room for it.
    """
    if _is_copy(remote, local):
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=local.parent, prefix=".copy-") as folder:
        whole = Path(folder) / local.name
        whole.mkdir()
        for path in track(sorted(remote.iterdir()), f"Copying {remote}", unit="file"):
            _copy(path, whole / path.name)
        shutil.rmtree(local, ignore_errors=True)
        try:
            os.rename(whole, local)
        except OSError:
            # Another process of this host was quicker.
            if not _is_copy(remote, local):
                raise


def upload(local: Path, remote: Path) -> None:
    """Copies a folder of prepared records to the store; until all of it is there it does not count as whole.

    Raises:
      UserError: where it cannot be written.
    """
    paths = sorted(local.iterdir(), key=lambda path: (path.name == LAST, path.name))
    for path in track(paths, f"Copying to {remote}", total=len(paths), unit="file"):
        _copy(path, remote / path.name)


def _is_copy(remote: Path, local: Path) -> bool:
    return (local / LAST).is_file() and (local / LAST).read_bytes() == (remote / LAST).read_bytes()


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as data, target.open("wb") as copy:
            shutil.copyfileobj(data, copy, 2**23)
    except Exception as error:  # every store has its own
        raise UserError(
            f"{source} cannot be copied to {target} ({type(error).__name__}: {error}): check config.data.dir, the "
            "credentials for it, and the room in config.system.data_cache"
        ) from error
