"""The content of a gzip file can be read anywhere, as if it was decompressed, in bounded memory and without a copy."""

import gzip
import tarfile
import zlib

import numpy as np
import pytest

from cpnet_jax.data.builders import gzip_file
from cpnet_jax.data.builders.gzip_file import GzipFile
from cpnet_jax.data.builders.sources import Source

RNG = np.random.default_rng(0)
NOISE = RNG.bytes(300_000)
CONTENTS = {
    "incompressible": NOISE,
    "zeros": bytes(3_000_000),
    "both": NOISE[:70_000] + bytes(500_000) + NOISE[70_000:] + b"end",
    "empty": b"",
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"SPACING": 1000, "MOST_POINTS": 16, "PIECE": 3000, "READ": 2000, "CACHED": 10**5}.items():
        monkeypatch.setattr(gzip_file, name, value)


def opened(path, data: bytes) -> GzipFile:
    path.write_bytes(data)
    file = GzipFile(path)
    file.finish_first_pass()
    return file


@pytest.mark.parametrize("name", CONTENTS)
def test_any_place_can_be_read_in_any_order(name, tmp_path):
    content = CONTENTS[name]
    file = opened(tmp_path / "x.gz", gzip.compress(content))
    assert len(file._points) <= gzip_file.MOST_POINTS
    for offset in RNG.integers(0, len(content) + 1, 60).tolist():
        size = int(RNG.integers(0, 5000))
        assert file.read_at(size, offset) == content[offset : offset + size]
    assert file.read_at(len(content) + 1, 0) == content


def test_the_first_pass_is_a_stream(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(CONTENTS["both"]))
    file = GzipFile(tmp_path / "x.gz")
    assert b"".join(iter(lambda: file.read(7777), b"")) == CONTENTS["both"]


def test_reading_in_order_decompresses_each_stretch_once(tmp_path, monkeypatch):
    file = opened(tmp_path / "x.gz", gzip.compress(NOISE))
    assert b"".join(file.read_at(100, offset) for offset in range(0, len(NOISE), 100)) == NOISE
    assert file._stretch.cache_info().misses == len(file._points)


def test_several_members_and_padding_read_as_one(tmp_path):
    parts = [gzip.compress(NOISE[:5000]), gzip.compress(b""), bytes(3000), gzip.compress(NOISE[5000:]), bytes(100)]
    assert opened(tmp_path / "x.gz", b"".join(parts)).read_at(10**6, 0) == NOISE


@pytest.mark.parametrize("length", [0, 5, 12, 2000, 150_000, -9, -1])
def test_a_file_cut_off_anywhere_is_refused(length, tmp_path):
    with pytest.raises(EOFError):
        opened(tmp_path / "x.gz", gzip.compress(NOISE)[:length])


def test_a_wrong_checksum_is_refused(tmp_path):
    data = bytearray(gzip.compress(NOISE))
    data[-6] ^= 1
    with pytest.raises(zlib.error):
        opened(tmp_path / "x.gz", bytes(data))


def test_no_copy_of_an_archive_is_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a temporary file")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (tmp_path / "in").mkdir()
    for i in range(20):
        (tmp_path / f"in/{i:02d}.png").write_bytes(NOISE[i * 9999 : (i + 1) * 9999])
    with tarfile.open(tmp_path / "own.tgz", "w:gz") as tar:
        tar.add(tmp_path / "in", "in")
    source = Source(tmp_path / "own.tgz")
    for i in RNG.permutation(20):
        assert source.read(f"in/{i:02d}.png") == NOISE[i * 9999 : (i + 1) * 9999]
