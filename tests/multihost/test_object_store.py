"""gs:// paths, with an in-memory store behind fsspec, which etils uses for buckets."""

import hashlib
import io
import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from fsspec import AbstractFileSystem
from raw_data import save

from cpnet_jax.data import builders, catalog
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files
from cpnet_jax.training import log_files
from cpnet_jax.training.metrics import MetricsWriter


class Bucket(AbstractFileSystem):
    """A bucket: an object appears whole when its file is closed; folders and renames do not exist."""

    protocol = ("gcs", "gs")
    objects: dict[str, bytes]
    uploads: list[str]

    def _open(self, path, mode="rb", **_):
        if mode == "rb":
            if path not in self.objects:
                raise FileNotFoundError(path)
            return io.BytesIO(self.objects[path])
        return _Upload(self, path)

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path)
        below = {key: "file" for key in self.objects if key == path}
        for key in self.objects:
            if key.startswith(f"{path}/"):
                name, _, deeper = key[len(path) + 1 :].partition("/")
                below[f"{path}/{name}"] = "directory" if deeper else "file"
        if not below:
            raise FileNotFoundError(path)
        found = [{"name": name, "type": kind, "size": len(self.objects.get(name, b""))} for name, kind in below.items()]
        return found if detail else list(below)

    def _rm(self, path):
        del self.objects[self._strip_protocol(path)]

    def mv(self, *_, **__):
        raise AssertionError("object stores rename nothing")


class _Upload(io.BytesIO):
    def __init__(self, bucket, path):
        super().__init__()
        self._bucket, self._path = bucket, path

    def close(self):
        if not self.closed:
            self._bucket.objects[self._path] = self.getvalue()
            self._bucket.uploads.append(self._path)
        super().close()


@pytest.fixture
def bucket(monkeypatch):
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "objects", {}, raising=False)
    monkeypatch.setattr(Bucket, "uploads", [], raising=False)
    return Bucket


def test_names_become_local_paths_or_store_paths(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.as_path("~/run") == tmp_path / "run"
    assert str(files.as_path("gs://bucket/run") / "a" / "b") == "gs://bucket/run/a/b"
    with pytest.raises(UserError, match="ftp://x/y has an unsupported URL scheme"):
        files.as_path("ftp://x/y")


def test_a_written_object_appears_whole_or_not_at_all(bucket):
    path = files.as_path("gs://bucket/run/config.json")
    files.make_folder(path.parent, "--workdir")
    files.write_json(path, {"a": 1})
    assert bucket.objects.keys() == {"bucket/run/config.json"}
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(bucket.objects["bucket/run/config.json"]) == {"a": 1}


def test_a_bucket_that_cannot_be_written_to_is_named(bucket, monkeypatch):
    def refuse(*_):
        raise PermissionError("no credentials")

    monkeypatch.setattr(_Upload, "close", refuse)
    with pytest.raises(UserError, match=r"--workdir is gs://bucket/run, which is not writable .*no credentials"):
        files.make_folder(files.as_path("gs://bucket/run"), "--workdir")


def test_metrics_and_events_in_a_bucket_grow_and_continue_after_a_restart(bucket, monkeypatch):
    workdir = files.as_path("gs://bucket/run")
    monkeypatch.setattr(log_files, "UPLOAD_SECONDS", 0)
    with MetricsWriter(workdir, 0, on_failure=pytest.fail) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 1.0 / step})
            assert bucket.objects["bucket/run/metrics.jsonl"].count(b"\n") == step
    with MetricsWriter(workdir, 2, on_failure=pytest.fail) as writer:
        writer.write(3, {"loss": 0.5})
    lines = [json.loads(line) for line in bucket.objects["bucket/run/metrics.jsonl"].splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 0.5)]
    events = [data for name, data in bucket.objects.items() if name.startswith("bucket/run/tensorboard/events")]
    assert events and any(b"loss" in data for data in events)


def test_a_store_that_fails_while_logging_costs_no_step(bucket, monkeypatch):
    """The run is asked to stop, and the sentence comes from `check`, after the checkpoint."""

    class HttpError(Exception):
        pass

    def refuse(*_):
        raise HttpError("503 Service Unavailable")

    asked = []
    monkeypatch.setattr(log_files, "UPLOAD_SECONDS", 0)
    said = r"metrics\.jsonl cannot be written \(HttpError: 503 Service Unavailable\)"
    workdir = files.as_path("gs://bucket/run")
    with (
        pytest.raises(UserError, match=said),
        MetricsWriter(workdir, 0, on_failure=lambda: asked.append(True)) as writer,
        monkeypatch.context() as patched,
    ):
        patched.setattr(_Upload, "close", refuse)
        writer.write(1, {"loss": 1.0})
        assert asked
        writer.check()
    with monkeypatch.context() as patched, pytest.raises(OSError, match="HttpError"):
        patched.setattr(_Upload, "close", refuse)
        files.write_json(files.as_path("gs://bucket/run/eval.json"), {})


def test_events_are_uploaded_less_often_than_metrics(bucket, monkeypatch):
    monkeypatch.setattr(log_files, "UPLOAD_SECONDS", 0)
    with MetricsWriter(files.as_path("gs://bucket/run"), 0, on_failure=pytest.fail) as writer:
        for step in range(20):
            writer.write(step, {"loss": 1.0})
    assert bucket.uploads.count("bucket/run/metrics.jsonl") > 20
    assert sum("events" in name for name in bucket.uploads) == 1


def test_metrics_are_not_uploaded_on_every_line(bucket):
    with MetricsWriter(files.as_path("gs://bucket/run"), 0, on_failure=pytest.fail) as writer:
        for step in range(20):
            writer.write(step, {"loss": 1.0})
        assert "bucket/run/metrics.jsonl" not in bucket.objects
    assert bucket.uploads.count("bucket/run/metrics.jsonl") == 1


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for place in range(3):
            save(tmp_path / "camvid" / split / f"{place}.png", rng.integers(0, 256, (8, 8, 3), np.uint8))
            save(tmp_path / "camvid" / f"{split}annot" / f"{place}.png", rng.integers(0, 12, (8, 8), np.uint8))
    return tmp_path / "camvid"


def labels(builder):
    return [
        cv2.imdecode(np.frombuffer(record["label"], np.uint8), 0).tolist()
        for record in builders.records(builder, "train")
    ]


def test_records_are_prepared_once_for_all_hosts_of_a_bucket(bucket, source, tmp_path):
    url = "gs://bucket/data"
    first = builders.prepare(catalog.CAMVID, url, source, cache=tmp_path / "host_0")
    assert bucket.uploads[-1].endswith("dataset_info.json"), "the dataset is complete only after the last upload"
    shutil.rmtree(source)
    uploads = len(bucket.uploads)
    second = builders.prepare(catalog.CAMVID, url, cache=tmp_path / "host_1")
    assert labels(second) == labels(first) and len(labels(first)) == 3
    assert len(bucket.uploads) == uploads


def test_an_interrupted_upload_is_not_used_and_a_newer_one_replaces_the_copy(bucket, source, tmp_path):
    url = "gs://bucket/data"
    builders.prepare(catalog.CAMVID, url, source, cache=tmp_path / "host_0")
    for name in [name for name in bucket.objects if name.endswith("dataset_info.json")]:
        del bucket.objects[name]
    with pytest.raises(UserError, match=r"config\.data\.source is not set"):
        builders.prepare(catalog.CAMVID, url, cache=tmp_path / "host_1")
    save(source / "train" / "3.png", np.zeros((8, 8, 3), np.uint8))
    save(source / "trainannot" / "3.png", np.zeros((8, 8), np.uint8))
    builders.prepare(catalog.CAMVID, url, source, cache=tmp_path / "host_2")
    assert len(labels(builders.prepare(catalog.CAMVID, url, cache=tmp_path / "host_0"))) == 4


def test_records_deleted_in_a_bucket_are_prepared_again_on_the_same_host(bucket, source, tmp_path):
    prepare = partial(builders.prepare, catalog.CAMVID, "gs://bucket/data")
    prepare(source, cache=tmp_path / "host_0")
    for path in (source / "trainannot").iterdir():
        save(path, np.full((8, 8), 5, np.uint8))
    for name in [name for name in bucket.objects if name.startswith("bucket/data/camvid/")]:
        del bucket.objects[name]
    assert labels(prepare(source, cache=tmp_path / "host_0")) == [[[5] * 8] * 8] * 3
    assert labels(prepare(cache=tmp_path / "host_1")) == [[[5] * 8] * 8] * 3


def test_an_upload_that_was_interrupted_early_is_continued_from_the_copy_on_the_host(bucket, source, tmp_path):
    prepare = partial(builders.prepare, catalog.CAMVID, "gs://bucket/data", cache=tmp_path / "host_0")
    written = labels(prepare(source))
    first = next(name for name in bucket.uploads if "/camvid/" in name)
    assert len(bucket.objects[first]) == min(map(len, bucket.objects.values())), "it is there soon"
    for name in [name for name in bucket.objects if name != first]:
        del bucket.objects[name]
    shutil.rmtree(source)
    assert labels(prepare()) == written


def test_a_note_on_added_images_names_their_records_in_the_bucket(bucket, source, tmp_path, capsys):
    (source / "classes.txt").write_text("\n".join("abcdefghijkl"))
    dataset = builders.describe_folder(source, catalog.FolderLayout(images="train", masks="trainannot"))
    for images in (3, 4):
        for folder in ("train", "trainannot"):
            save(source / folder / f"{images}.png", np.zeros((8, 8), np.uint8))
        builders.prepare(dataset, "gs://bucket/data", source, cache=tmp_path / "host_0")
    note = capsys.readouterr().out.splitlines()[-1]
    assert note.startswith("Note: ") and "or delete gs://bucket/data/folder/camvid-" in note


def test_advice_names_the_records_in_the_bucket_and_works(bucket, source, tmp_path):
    prepare = partial(builders.prepare, catalog.CAMVID, "gs://bucket/data", cache=tmp_path / "host_0")
    copy = Path(prepare(source).data_dir)
    other = shutil.copytree(source, tmp_path / "other")
    with pytest.raises(UserError, match=r"or delete gs://bucket/data/camvid/1\.0\.0 and run --mode=prepare again"):
        prepare(other)
    bucket.objects["bucket/data/camvid/1.0.0/dataset_info.json"] = b"{"
    (copy / "dataset_info.json").write_bytes(b"{")
    with pytest.raises(
        UserError, match=f"delete {copy.parent} and .*; if that does not help, delete gs://bucket/data/camvid as well"
    ):
        prepare(source)
    shutil.rmtree(copy.parent)
    for name in [name for name in bucket.objects if name.startswith("bucket/data/camvid/")]:
        del bucket.objects[name]
    assert len(labels(prepare(other))) == 3


def test_a_users_folder_has_one_place_in_a_bucket_for_each_class_file_and_that_of_earlier_versions_is_used(
    bucket, source, tmp_path
):
    def prepare(host, classes):
        (source / "classes.txt").write_text("\n".join(classes))
        dataset = builders.describe_folder(source, catalog.FolderLayout(images="train", masks="trainannot"))
        builder = builders.prepare(dataset, "gs://bucket/data", source, cache=tmp_path / host)
        return Path(builder.data_dir).parent.name, labels(builder)

    letters, digits = "abcdefghijkl", [f"class {place}" for place in range(12)]
    first, second = prepare("host_0", letters), prepare("host_0", digits)
    assert first[0] != second[0] and {name.split("/")[3] for name in bucket.objects} == {first[0], second[0]}
    old = f"camvid-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    for name in [name for name in bucket.objects if first[0] in name]:
        bucket.objects[name.replace(first[0], old)] = bucket.objects.pop(name)
    uploads = len(bucket.uploads)
    assert prepare("host_1", letters) == (old, first[1]) and prepare("host_1", digits) == second
    assert len(bucket.uploads) == uploads


@pytest.mark.parametrize(("removed", "split"), [("", "train"), ("train", "val")])
def test_an_evaluation_prepares_once_for_all_hosts_of_a_bucket_with_and_without_images_to_train_on(
    removed, split, bucket, source, tmp_path
):
    url = "gs://bucket/data"
    for folder in (removed, f"{removed}annot") if removed else ():
        shutil.rmtree(source / folder)
    builders.prepare_for_evaluation(catalog.CAMVID, url, source, cache=tmp_path / "host_0")
    shutil.rmtree(source)
    uploads = len(bucket.uploads)
    second = builders.prepare_for_evaluation(catalog.CAMVID, url, cache=tmp_path / "host_1")
    assert len(builders.records(second, split)) == 3 and len(bucket.uploads) == uploads
    assert any("/evaluation/" in name for name in bucket.uploads) == bool(removed)


def test_a_local_file_is_uploaded_whole(bucket):
    path = files.as_path("gs://bucket/run/net.cpnet")
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"network")
    assert files.size(path) == 7
