"""Finds or downloads a dataset's published files in DIR/downloads/DATASET, where DIR is config.data.dir.

downloads.json beside the files holds the size and the SHA-256 of each, as of the first time that it was seen whole. A
file that changes afterwards is refused, and so is another file under the same address.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpnet_jax.data import cityscapes_account
from cpnet_jax.data.builders import archives
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.catalog.downloads import Downloads, RemoteFile
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, transfer
from cpnet_jax.runtime.progress import readable_size

# Environment variable: an address that replaces the publishers' own. It has the files as ADDRESS/DATASET/NAME.
MIRROR = "CPNET_MIRROR"
RECORD = "downloads.json"
LOCK = ".lock"  # hidden files are not read as part of the dataset


def find(dataset: Dataset, data_dir: Path, *, download: bool) -> Path:
    """Returns the folder of a dataset's published files. Files that were put there by hand count.

    Args:
      dataset: a dataset that has published files.
      data_dir: config.data.dir, on a local disk.
      download: whether missing files may be downloaded.

    Raises:
      UserError: if files are missing and may not or cannot be downloaded, or are not the published ones.
    """
    published = dataset.downloads
    assert published
    folder = data_dir / "downloads" / published.folder
    missing = _missing(published.files, folder)
    if missing and (unpacked := sorted(path.name for path in folder.glob("[!.]*/"))):
        raise UserError(
            f"{folder} lacks {' and '.join(file.name for file in missing)}, but holds the folder {unpacked[0]}: set "
            f"config.data.source={folder} if you unpacked it from there, else move it away"
        )
    if missing and not download:
        raise UserError(
            f"config.data.source is not set, and {folder} has no {_listed(missing, published)}: set it to "
            f"{dataset.source_help}, or download the files with --mode=prepare --config.data.download=True"
        )
    files.make_folder(folder, "config.data.dir")
    with _locked(folder):
        if _missing(published.files, folder):
            print(f"Downloading {dataset.name} to {folder}. Terms: {published.terms}", flush=True)
        for file in published.files:
            if not (folder / file.name).is_file():
                _download(file, folder, published)
            _check(file, folder)
    return folder


def _missing(all_files: Sequence[RemoteFile], folder: Path) -> list[RemoteFile]:
    return [file for file in all_files if not (folder / file.name).is_file()]


def _listed(wanted: Sequence[RemoteFile], published: Downloads) -> str:
    """Names of files with their sizes and addresses."""
    *others, last = (
        f"{file.name} ({', '.join((readable_size(file.size), *_addresses(file, published)[:1]))})" for file in wanted
    )
    return f"{', '.join(others)} and {last}" if others else last


def _addresses(file: RemoteFile, published: Downloads) -> tuple[str, ...]:
    mirror = os.environ.get(MIRROR)
    if mirror and not mirror.startswith(("http://", "https://")):
        raise UserError(f"the environment variable {MIRROR} is {mirror!r}: it must begin with http:// or https://")
    return (f"{mirror.rstrip('/')}/{published.folder}/{file.name}",) if mirror else file.addresses


def _download(file: RemoteFile, folder: Path, published: Downloads) -> None:
    """Downloads a file and records it."""
    path, record = folder / file.name, _read_record(folder)
    recorded = f"sha256:{record[file.name]['sha256']}" if file.name in record else ""
    addresses = _addresses(file, published)
    try:
        if not addresses:
            cityscapes_account.fetch([missing.name for missing in _missing(published.files, folder)], folder)
            return
        fetched = transfer.fetch(addresses, path, file.digest or recorded)
    except transfer.DiskFull as error:
        raise UserError(
            f"{error}: free space, or set another config.data.dir; what has arrived is kept, and the same command "
            "continues"
        ) from error
    except transfer.Unavailable as error:
        more = f", or delete {folder / RECORD} if the checksum in it is of an older version" if recorded else ""
        mirror = os.environ.get(MIRROR)
        more += f", or correct or unset {MIRROR}, which is {mirror}" if mirror else ""
        raise UserError(
            f"{file.name} cannot be downloaded ({error}): run the same command again{more}, or put "
            f"{_listed(_missing(published.files, folder), published)} into {folder}, or set config.data.source"
        ) from error
    _write_record(path, fetched.sha256, fetched.address)


def _check(file: RemoteFile, folder: Path) -> None:
    """Compares a file with its published checksum and with the record, unless it has not changed since; records it.

    A file that neither knows is recorded if it is whole.
    """
    path, recorded = folder / file.name, _read_record(folder).get(file.name)
    if recorded and (recorded["size"], recorded["modified"]) == _stamp(path):
        return
    print(f"Checking {path}", flush=True)
    if not file.digest and not recorded and archives.is_archive(file.name):
        archives.open_archive(path.resolve())  # as the builder names it, so that a compressed tar is read only once
    sha256 = transfer.digest_of(path, "sha256")
    expected = file.digest or (f"sha256:{recorded['sha256']}" if recorded else sha256)
    algorithm = expected.partition(":")[0]
    found = sha256 if algorithm == "sha256" else transfer.digest_of(path, algorithm)
    if found != expected:
        known = "published" if file.digest else f"recorded in {folder / RECORD}"
        more = "" if file.digest else f", or delete {folder / RECORD} if the checksum in it is of an older version"
        raise UserError(
            f"{path} is not the published file or has changed (its checksum is {found}, and {expected} is {known}): "
            f"delete it, and the same command downloads it again{more}"
        )
    _write_record(path, sha256.partition(":")[2], recorded["address"] if recorded else "put there by hand")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> size, modified (time in ns), sha256 and address; empty if the record is missing or damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        fields = {"size", "modified", "sha256", "address"}
        return {name: entry for name, entry in record.items() if fields <= entry.keys()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_record(path: Path, sha256: str, address: str) -> None:
    size, modified = _stamp(path)
    entry = {"size": size, "modified": modified, "sha256": sha256, "address": address}
    files.write_json(path.with_name(RECORD), {**_read_record(path.parent), path.name: entry})


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time work in the folder. The kernel releases the lock when that process ends in any way."""
    with (folder / LOCK).open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process downloads to {folder}: waiting until it has finished", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            print(f"Note: {folder} has no locks ({error.strerror}): start no second download there", flush=True)
        yield
