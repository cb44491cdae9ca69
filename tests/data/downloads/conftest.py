"""A server with the small published archives of the datasets."""

import hashlib
from dataclasses import replace

import pytest
from file_server import serving
from published_archives import small_archives

from cpnet_jax.data import builders, catalog, downloads
from cpnet_jax.data.catalog.downloads import RemoteFile
from cpnet_jax.runtime import transfer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    monkeypatch.setattr(transfer, "BLOCK", 100)


@pytest.fixture
def mirror(monkeypatch):
    """A server with the archives of the datasets that `small` made."""
    with serving({}) as server:
        monkeypatch.setenv(downloads.MIRROR, server.address + "/")
        yield server


@pytest.fixture
def small(mirror, monkeypatch):
    """Function: name -> descriptor whose published files are small ones, on the mirror and at two addresses."""

    def dataset(name: str, *, digests: bool = True) -> catalog.Dataset:
        original = catalog.get(name)
        archives = small_archives(original.downloads.folder)
        assert archives.keys() == {file.name for file in original.downloads.files}
        mirror.files |= {f"/{original.downloads.folder}/{file}": data for file, data in archives.items()}

        def file(name: str, data: bytes) -> RemoteFile:
            addresses = (f"{mirror.address}/down/{name}", f"{mirror.address}/{original.downloads.folder}/{name}")
            return RemoteFile(name, len(data), addresses, f"md5:{hashlib.md5(data).hexdigest()}" if digests else "")

        published = replace(original.downloads, files=tuple(file(*item) for item in archives.items()))
        changed = replace(original, downloads=published)
        monkeypatch.setattr(builders.BUILDERS[name], "DATASET", changed)
        monkeypatch.setitem(catalog.DATASETS, name, changed)
        return changed

    return dataset
