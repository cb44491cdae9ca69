"""Raw files are read alike from folders, from archives, and from archives in folders."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from raw_data import truncate
from reading_threads import read_by_threads

from cpnet_jax.data.builders.sources import Source
from cpnet_jax.errors import UserError

FILES = {"a/1.png": b"one", "a/2.png": b"two", "b/1.png": b"three", "notes.txt": b"four"}


def write(root: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(archive: Path, files: dict[str, bytes] = FILES) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return archive


def contents(source: Source) -> dict[str, bytes]:
    return {name: source.read(name) for name in source.names}


def test_a_folder_an_archive_and_a_folder_of_archives_read_alike(tmp_path):
    some = ["a/1.png", "notes.txt"]
    pack(tmp_path / "archives/first.zip", {name: FILES[name] for name in some})
    pack(tmp_path / "archives/second.ZIP", {name: data for name, data in FILES.items() if name not in some})
    sources = [write(tmp_path / "folder"), pack(tmp_path / "all.zip"), tmp_path / "archives"]
    for source in map(Source, sources):
        assert source.names == sorted(FILES) and contents(source) == FILES
        assert source.glob("a/*") == ["a/1.png", "a/2.png"]


def test_unpacked_files_come_before_packed_ones_and_earlier_archives_before_later(tmp_path):
    write(tmp_path, {"x": b"unpacked"})
    pack(tmp_path / "1.zip", {"x": b"first", "y": b"first"})
    pack(tmp_path / "2.zip", {"x": b"second", "y": b"second", "z": b"second"})
    assert contents(Source(tmp_path)) == {"x": b"unpacked", "y": b"first", "z": b"second"}


def test_archives_in_subfolders_are_ordinary_files(tmp_path):
    pack(tmp_path / "below/inner.zip", {"x": b"never"})
    assert Source(tmp_path).names == ["below/inner.zip"]


def test_hidden_files_and_what_macos_adds_are_left_out(tmp_path):
    added = {".DS_Store": b"", "a/._1.png": b"", "__MACOSX/a/._1.png": b"", ".git/x": b""}
    write(tmp_path / "folder", {**FILES, **added, "._all.zip": b"no archive"})
    assert Source(tmp_path / "folder").names == sorted(FILES)
    assert Source(pack(tmp_path / "all.zip", FILES | added)).names == sorted(FILES)


def test_links_are_followed_except_in_circles(tmp_path):
    write(tmp_path / "elsewhere")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/two").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/b/back").symlink_to(tmp_path / "elsewhere")
    assert Source(tmp_path / "raw").names == sorted(f"{link}/{name}" for link in ("one", "two") for name in FILES)


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_user_may_name_the_folder_or_the_one_around_it(form, tmp_path):
    for outer in ("", "outer [1]/", "deeper/outer/"):
        files = {f"{outer}{name}": data for name, data in FILES.items()}
        place = tmp_path / f"{len(outer)}{form}"
        source = Source(write(place, files) if form == "folder" else pack(place.with_suffix(".zip"), files))
        found = source.glob(f"{source.root_of('a/')}a/*.png")
        assert found == ([] if outer == "deeper/outer/" else [f"{outer}a/1.png", f"{outer}a/2.png"])


def test_threads_can_read_at_once(tmp_path):
    rng = np.random.default_rng(0)
    files = {f"{i:03d}": rng.integers(0, 4, int(rng.integers(1, 50_000))).astype(np.uint8).tobytes() for i in range(99)}
    for part in range(2):
        pack(tmp_path / f"{part}.zip", {name: files[name] for name in list(files)[part::2]})
    source = Source(tmp_path)
    read_by_threads(source, files)


def test_a_truncated_archive_is_named(tmp_path):
    pack(tmp_path / "whole.zip")
    truncate(pack(tmp_path / "half.zip"))
    for path in (tmp_path, tmp_path / "half.zip"):
        with pytest.raises(UserError, match=r"half\.zip.* not a complete zip archive") as caught:
            Source(path)
        assert "whole.zip" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["first bytes", "last bytes", "flags"])
def test_a_damaged_member_is_named(place, tmp_path):
    data = np.random.default_rng(0).integers(0, 9, 9999).astype(np.uint8).tobytes()
    archive = pack(tmp_path / "damaged.zip", {"good.png": b"good", "bad.png": data})
    with zipfile.ZipFile(archive) as packed:
        bad = packed.getinfo("bad.png")
    start = bad.header_offset + 30 + len("bad.png")
    damaged = bytearray(archive.read_bytes())
    if place == "flags":  # marked as encrypted
        damaged[damaged.rindex(b"PK\x01\x02") + 8] |= 1
        damaged[bad.header_offset + 6] |= 1
    else:
        at = start if place == "first bytes" else start + bad.compress_size - 9
        damaged[at : at + 8] = b"\xff" * 8
    archive.write_bytes(damaged)
    source = Source(archive)
    assert source.read("good.png") == b"good"
    with pytest.raises(UserError) as caught:
        source.read("bad.png")
    assert str(archive / "bad.png") in str(caught.value)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def scandir(folder):
        if str(folder) == str(tmp_path / "a"):
            raise PermissionError(13, "Permission denied", folder)
        return original(folder)

    original = os.scandir
    write(tmp_path)
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=rf"{tmp_path / 'a'} cannot be listed \(Permission denied\)"):
        Source(tmp_path)


def test_a_file_deleted_meanwhile_is_named(tmp_path):
    source = Source(write(tmp_path))
    (tmp_path / "a/1.png").unlink()
    with pytest.raises(UserError, match=str(tmp_path / "a/1.png")):
        source.read("a/1.png")
