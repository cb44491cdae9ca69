"""A downloaded file is whole or not there, whatever the network, the server and the disk do."""

import errno
import hashlib
import json
import shutil

import numpy as np
import pytest
from file_server import serving

from cpnet_jax.runtime import transfer
from cpnet_jax.runtime.progress import readable_size
from cpnet_jax.runtime.transfer import DiskFull, Unavailable, fetch

DATA = np.random.default_rng(0).bytes(300_000)
PATH = "/file.zip"
NOWHERE = "http://127.0.0.1:9/file.zip"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    monkeypatch.setattr(transfer, "BLOCK", 1000)


@pytest.fixture
def server():
    with serving({PATH: DATA}) as running:
        yield running


def md5(data=DATA):
    return f"md5:{hashlib.md5(data).hexdigest()}"


def assert_whole(fetched, path, server):
    assert path.read_bytes() == DATA and fetched.size == len(DATA)
    assert fetched.sha256 == hashlib.sha256(DATA).hexdigest() and fetched.address == server.address + PATH
    assert [found.name for found in path.parent.iterdir()] == [path.name], "nothing is left beside it"


def interrupted(server, path, monkeypatch, received=100_000):
    """Downloads until the connection is cut and the server gone."""
    server.cuts, server.statuses = [received], []
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_receive", once(transfer._receive))
        with pytest.raises(Unavailable):
            fetch([server.address + PATH], path)
    assert not path.exists() and path.with_name("file.zip.part").stat().st_size > 0.9 * received
    server.requests.clear()


def once(receive):
    """`receive`, which reaches no server any more after its first call."""

    def limited(session, address, part, name):
        first, limited.called = not getattr(limited, "called", False), True
        return receive(session, address if first else NOWHERE, part, name)

    return limited


def test_a_whole_file_is_received(server, tmp_path):
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip", md5()), tmp_path / "file.zip", server)


def test_a_cut_connection_is_continued_where_it_was_cut(server, tmp_path):
    server.cuts = [100_000, 50_000]
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)
    starts = [int(asked.removeprefix("bytes=").rstrip("-") or 0) for _, asked in server.requests]
    assert starts[0] == 0 and 90_000 < starts[1] <= 100_000 and 130_000 < starts[2] <= 150_000


def test_a_download_is_continued_by_another_process(server, tmp_path, monkeypatch):
    interrupted(server, tmp_path / "file.zip", monkeypatch)
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip", md5()), tmp_path / "file.zip", server)
    [(_, asked)] = server.requests
    assert asked.startswith("bytes=9") or asked == "bytes=100000-"


def test_a_server_without_parts_sends_the_file_again(server, tmp_path, monkeypatch):
    interrupted(server, tmp_path / "file.zip", monkeypatch)
    server.ranges = False
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)


def test_parts_of_two_versions_are_never_joined(server, tmp_path, monkeypatch):
    server.files = {PATH: bytes(len(DATA))}
    interrupted(server, tmp_path / "file.zip", monkeypatch)
    server.files = {PATH: DATA}
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)


def test_a_rest_of_another_version_is_not_appended(server, tmp_path, monkeypatch):
    """From a server that knows Range, and ignores If-Range."""
    server.files = {PATH: bytes(len(DATA))}
    interrupted(server, tmp_path / "file.zip", monkeypatch)
    server.files, server.ignores_if_range = {PATH: DATA}, True
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)


def test_a_version_without_a_name_is_not_continued(server, tmp_path, monkeypatch):
    server.validators = False
    interrupted(server, tmp_path / "file.zip", monkeypatch)
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)
    assert server.requests == [(PATH, "")]


def test_a_part_from_one_address_outlives_the_failure_of_another(server, tmp_path, monkeypatch):
    interrupted(server, tmp_path / "file.zip", monkeypatch)
    assert_whole(fetch([NOWHERE, server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)
    assert server.requests[0][1] not in ("", "bytes=0-")


@pytest.mark.parametrize("note", [None, "", "[]", '{"address": 1}'])
def test_a_part_of_unknown_origin_is_not_continued(server, tmp_path, note):
    (tmp_path / "file.zip.part").write_bytes(b"left by another program")
    if note is not None:
        (tmp_path / "file.zip.part.json").write_text(note)
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)


def test_a_process_killed_after_the_last_byte_only_renames(server, tmp_path):
    tag = f'"{hashlib.md5(DATA).hexdigest()}"'
    (tmp_path / "file.zip.part").write_bytes(DATA)
    (tmp_path / "file.zip.part.json").write_text(json.dumps({"address": server.address + PATH, "validator": tag}))
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip", md5()), tmp_path / "file.zip", server)
    assert server.requests == [(PATH, f"bytes={len(DATA)}-")]


def test_a_server_that_does_not_say_the_length_is_enough(server, tmp_path):
    server.lengths = False
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)


def test_overload_is_waited_for(server, tmp_path):
    server.statuses = [503, 429, 500]
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)


def test_the_next_address_is_asked_if_one_fails(server, tmp_path):
    addresses = [NOWHERE, f"{server.address}/missing.zip", "htp://typo", server.address + PATH]
    assert_whole(fetch(addresses, tmp_path / "file.zip"), tmp_path / "file.zip", server)


def test_a_file_with_a_wrong_checksum_is_not_kept(server, tmp_path):
    wrong = server.address + "/wrong.zip"
    server.files["/wrong.zip"] = DATA[::-1]
    with pytest.raises(Unavailable, match=rf"wrong\.zip: its checksum is {md5(DATA[::-1])}, not "):
        fetch([wrong], tmp_path / "file.zip", md5())
    assert not list(tmp_path.iterdir())
    assert_whole(fetch([wrong, server.address + PATH], tmp_path / "file.zip", md5()), tmp_path / "file.zip", server)


def test_a_web_page_is_not_taken_for_the_file(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(Unavailable, match="web page"):
        fetch([server.address + PATH], tmp_path / "file.zip")
    assert not list(tmp_path.iterdir())


def test_each_address_has_its_reason_in_a_few_words(server, tmp_path):
    with pytest.raises(Unavailable) as caught:
        fetch([NOWHERE, f"{server.address}/missing.zip", "http://does-not-exist.invalid/x"], tmp_path / "file.zip")
    first, second, third = str(caught.value).split("; ")
    assert first.endswith("[Errno 111] Connection refused") and first.startswith(f"{NOWHERE}: ") and len(first) < 150
    assert second.endswith("missing.zip: HTTP status 404 Not Found")
    assert "Failed to resolve 'does-not-exist.invalid'" in third and len(third) < 250


def test_room_is_checked_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskFull, match=r"file\.zip\.part needs 300 kB more, and its disk has 1\.00 kB free"):
        fetch([server.address + PATH], tmp_path / "file.zip")


def test_a_full_disk_keeps_what_has_arrived(server, tmp_path, monkeypatch):
    write = transfer._Part.write

    def full(part, block):
        if part.size > 150_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(part, block)

    with monkeypatch.context() as patched:
        patched.setattr(transfer._Part, "write", full)
        with pytest.raises(DiskFull, match=r"disk of .*file\.zip is full"):
            fetch([server.address + PATH], tmp_path / "file.zip")
    assert not (tmp_path / "file.zip").exists()
    server.requests.clear()
    assert_whole(fetch([server.address + PATH], tmp_path / "file.zip"), tmp_path / "file.zip", server)
    assert server.requests[0][1].startswith("bytes=15")


def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    server.files["http://publisher.invalid/file.zip"] = DATA
    fetch(["http://publisher.invalid/file.zip"], tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == DATA


def test_progress_shows_bytes_speed_and_time_left(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cpnet_jax.runtime.progress.QUIET_SECONDS", 0.0)
    fetch([server.address + PATH], tmp_path / "file.zip")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Downloading file.zip, 1.00 kB of 300 kB, ") and "B/s, 00:0" in lines[0]
    assert lines[-1].startswith("Downloading file.zip, 300 kB of 300 kB, ") and lines[-1].endswith(" 00:00 left")


@pytest.mark.parametrize(
    "count, expected",
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (9_996, "10.0 kB"), (99_960, "100 kB"),
     (999_499, "999 kB"), (999_500, "1.00 MB"), (923_000_000, "923 MB"), (19_336_861_798, "19.3 GB")],
)  # fmt: skip
def test_sizes_have_three_digits(count, expected):
    assert readable_size(count) == expected
