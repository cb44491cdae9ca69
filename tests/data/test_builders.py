"""Builders write records once, completely or not at all, and refuse a faulty source with a one-line message."""

import contextlib
import dataclasses
import errno
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import assert_refused

from cpnet_jax.data import builders, catalog, scenes
from cpnet_jax.data.builders import base as base_module
from cpnet_jax.data.builders import scenes as scenes_module
from cpnet_jax.data.records import decode_record
from cpnet_jax.data.stream import TrainStream, examples
from cpnet_jax.errors import UserError

VOID, IGNORED = 11, 255
COUNTS = {"train": 5, "val": 3, "test": 2}
decode11 = partial(decode_record, num_classes=11, ignore_label=IGNORED)


def raw_pair(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and raw label with all classes and void; the size differs between indices."""
    rng = np.random.default_rng([ord(split[0]), index])
    height, width = 12 + index, 16 + 2 * index
    label = rng.integers(0, 12, (height, width)).astype(np.uint8)
    label[0, :12] = np.arange(12)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8), label


def write_tree(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    """Write CamVid's layout; label 1 of every split is a palette PNG."""
    for split, count in counts.items():
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for index in range(count):
            image, label = raw_pair(split, index)
            picture = Image.fromarray(label)
            if index == 1:
                picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
            Image.fromarray(image).save(root / split / f"{split}_{index}.png")
            picture.save(root / f"{split}annot" / f"{split}_{index}.png")
    return root


def prepared_files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def camvid(tmp_path_factory) -> tuple[Path, Path, builders.SegmentationBuilder]:
    """(source, data_dir, builder) of a small CamVid, prepared once; tests must not change it."""
    source = write_tree(tmp_path_factory.mktemp("camvid_raw"))
    data_dir = tmp_path_factory.mktemp("camvid_prepared")
    return source, data_dir, builders.prepare(catalog.CAMVID, data_dir, source)


@pytest.fixture
def source(tmp_path) -> Path:
    """A small CamVid that a test may change."""
    return write_tree(tmp_path / "raw", {"train": 3, "val": 2})


# --- CamVid -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", COUNTS)
def test_records_are_the_pairs_of_the_folders(camvid, split):
    records = builders.records(camvid[2], split)
    found = {example["id"]: example for example in examples(records, decode=decode11)}
    assert len(records) == COUNTS[split]
    assert sorted(found) == [f"{split}_{index}" for index in range(COUNTS[split])]
    for index in range(COUNTS[split]):
        image, label = raw_pair(split, index)
        example = found[f"{split}_{index}"]
        assert np.array_equal(example["image"], image)
        assert np.array_equal(example["label"], np.where(label == VOID, IGNORED, label))
        assert example["label"].dtype == np.uint8


def test_a_jpeg_is_stored_unchanged_and_a_png_losslessly():
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG")
    assert base_module.stored_image(stream.getvalue(), "x.jpg") == stream.getvalue()
    stored = base_module.stored_image(png(Image.fromarray(image)), "x.png")
    assert np.array_equal(np.asarray(Image.open(BytesIO(stored))), image)
    with pytest.raises(UserError, match=r"x\.png cannot be read"):
        base_module.stored_image(b"no picture", "x.png")


def test_the_test_split_is_optional(source, tmp_path):
    builder = builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    assert len(builders.records(builder, "train")) == 3
    with pytest.raises(UserError, match="test"):
        builders.records(builder, "test")


def test_preparing_and_reading_need_no_tensorflow(source, tmp_path, monkeypatch):
    class NotInstalled:
        def find_spec(self, name, *_):
            if name.partition(".")[0] == "tensorflow":
                raise ModuleNotFoundError(name)

    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(), *sys.meta_path])
    records = builders.records(builders.prepare(catalog.CAMVID, tmp_path / "out", source), "train")
    stream = TrainStream(
        records, transform=lambda record, _: {"image": decode11(record)["image"][:4, :4]}, batch_size=2, seed=0
    )
    assert next(stream)["image"].shape == (2, 4, 4, 3)
    assert "tensorflow" not in sys.modules


def test_records_can_be_pickled(camvid):
    _, _, builder = camvid
    records = builders.records(builder, "val")
    sent = pickle.loads(pickle.dumps(records))
    assert [sent[index] for index in range(len(records))] == [records[index] for index in range(len(records))]


def test_preparing_twice_writes_once(camvid):
    source, data_dir, _ = camvid
    before = prepared_files(data_dir)
    assert before
    for again in (source, str(source), ""):  # as Path, as text, and not set
        builder = builders.prepare(catalog.CAMVID, data_dir, again)
        assert len(builders.records(builder, "train")) == COUNTS["train"]
    assert prepared_files(data_dir) == before


def test_prepared_records_do_not_need_their_source(source, tmp_path):
    builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    shutil.rmtree(source)
    records = builders.records(builders.prepare(catalog.CAMVID, tmp_path / "out"), "val")
    assert len(list(examples(records, decode=decode11))) == 2


def test_sizes_are_compared_at_every_start(source, tmp_path, capsys):
    for _ in range(2):
        capsys.readouterr()
        builder = builders.prepare(catalog.CAMVID, tmp_path / "out", source)
        note = "Note: split train of camvid has 3 examples here, 367 in the publication"
        assert f"{note}; if the source has others now, delete {builder.data_dir} and run" in capsys.readouterr().out


def test_records_of_another_source_are_refused(camvid, source):
    first, data_dir, _ = camvid
    before = prepared_files(data_dir)
    with pytest.raises(UserError) as caught:
        builders.prepare(catalog.CAMVID, data_dir, source)
    assert str(first) in str(caught.value) and str(source) in str(caught.value)
    assert prepared_files(data_dir) == before


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interrupted_preparation_does_not_count_as_complete(source, tmp_path, monkeypatch, interruption):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 4:  # after the train split
            raise interruption
        return read_pair(*arguments, **options)

    read_pair = base_module.read_pair
    with monkeypatch.context() as patch, pytest.raises(interruption):
        patch.setattr(base_module, "read_pair", interrupted)
        builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    builder = builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    assert [len(builders.records(builder, split)) for split in ("train", "val")] == [3, 2]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"),
        RuntimeError(f"write() failed: {os.strerror(errno.ENOSPC)}; at byte 7"),  # as the record writer raises it
    ],
)
def test_a_full_disk_is_reported_and_the_records_do_not_count_as_complete(source, tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"is full .*free space") as caught:
        patch.setattr(base_module, "read_pair", full)
        builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    assert str(tmp_path / "out") in str(caught.value)
    assert len(builders.records(builders.prepare(catalog.CAMVID, tmp_path / "out", source), "train")) == 3


def test_two_processes_can_prepare_at_once(source, tmp_path, monkeypatch):
    """The second one starts and ends while the first is preparing."""

    def overtaken(*arguments, **options):
        monkeypatch.setattr(base_module, "read_pair", read_pair)
        builders.prepare(catalog.CAMVID, tmp_path / "out", source)
        return read_pair(*arguments, **options)

    read_pair = base_module.read_pair
    monkeypatch.setattr(base_module, "read_pair", overtaken)
    builder = builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    assert [len(builders.records(builder, split)) for split in ("train", "val")] == [3, 2]


def test_a_killed_preparation_does_not_count_as_complete(source, tmp_path):
    script = """
import os, sys
from cpnet_jax.data import builders, catalog
from cpnet_jax.data.builders import base as camvid
read_pair, calls = camvid.read_pair, []
camvid.read_pair = lambda *a, **k: calls.append(a) or (os._exit(9) if len(calls) == 5 else read_pair(*a, **k))
builders.prepare(catalog.CAMVID, *sys.argv[1:])
"""
    command = [sys.executable, "-c", script, str(tmp_path / "out"), str(source)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=120, check=False)
    assert killed.returncode == 9, killed.stderr.decode()
    builder = builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    assert [len(builders.records(builder, split)) for split in ("train", "val")] == [3, 2]


def test_a_partly_copied_folder_of_records_is_named(source, tmp_path):
    folder = Path(builders.prepare(catalog.CAMVID, tmp_path / "out", source).data_dir)
    (folder / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=f"^{folder} is incomplete .*: delete it and run --mode=prepare again"):
        builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    shutil.rmtree(folder)
    assert len(builders.records(builders.prepare(catalog.CAMVID, tmp_path / "out", source), "train")) == 3


# --- faulty sources ---------------------------------------------------------------------------------------------------


def png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def label_with(value: int) -> bytes:
    label = raw_pair("train", 0)[1].copy()
    label[5, 5] = value
    return png(Image.fromarray(label))


LABEL = "trainannot/train_0.png"
IMAGE = "train/train_0.png"
# case -> (change to the source, what the error message must name)
BROKEN = {
    "train missing": (lambda root: shutil.rmtree(root / "train"), ["train"]),
    "valannot missing": (lambda root: shutil.rmtree(root / "valannot"), ["valannot"]),
    "test without testannot": (lambda root: shutil.copytree(root / "val", root / "test"), ["testannot"]),
    "testannot without test": (lambda root: shutil.copytree(root / "valannot", root / "testannot"), ["test"]),
    "empty source": (lambda root: (shutil.rmtree(root), root.mkdir()), ["train"]),
    "empty split": (lambda root: [path.unlink() for path in root.glob("val*/*")], ["val"]),
    "image without its label": (lambda root: (root / LABEL).unlink(), [IMAGE, "trainannot"]),
    "label without its image": (lambda root: (root / IMAGE).unlink(), [LABEL, "image"]),
    "images of one name in two folders": (
        lambda root: shutil.copytree(root / "train", root / "train/old"),
        ["train/old/train_0.png", "train/train_0.png", "keep only one"],
    ),
    "labels of one name in two folders": (
        lambda root: shutil.copytree(root / "trainannot", root / "trainannot/old"),
        ["trainannot/old/train_0.png", "trainannot/train_0.png", "keep only one"],
    ),
    "label of another size": (
        lambda root: Image.open(root / LABEL).crop((0, 0, 16, 11)).save(root / LABEL),
        [LABEL, "16x11", "16x12"],
    ),
    "label value 12": (lambda root: (root / LABEL).write_bytes(label_with(12)), [LABEL, "12"]),
    "label value 200": (lambda root: (root / LABEL).write_bytes(label_with(200)), [LABEL, "200"]),
    "label in colours": (lambda root: Image.open(root / LABEL).convert("RGB").save(root / LABEL), [LABEL, "RGB"]),
    "label of 16 bits": (
        lambda root: Image.fromarray(np.zeros((12, 16), np.uint16)).save(root / LABEL),
        [LABEL],
    ),
    "image cut off": (lambda root: (root / IMAGE).write_bytes((root / IMAGE).read_bytes()[:200]), [IMAGE]),
    "label cut off": (lambda root: (root / LABEL).write_bytes((root / LABEL).read_bytes()[:80]), [LABEL]),
    "image cut off in its header": (lambda root: (root / IMAGE).write_bytes(b"\x89PNG\r\n\x1a\n\0\0"), [IMAGE]),
    "image of no bytes": (lambda root: (root / IMAGE).write_bytes(b""), [IMAGE]),
    "image is text": (lambda root: (root / IMAGE).write_text("404: Not Found"), [IMAGE]),
    "image damaged": (
        lambda root: (root / IMAGE).write_bytes((root / IMAGE).read_bytes().replace(b"IDAT", b"IDAT\1\2\3", 1)),
        [IMAGE],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_source_is_refused_in_one_line_and_nothing_is_written(name, source, tmp_path):
    damage, named = BROKEN[name]
    damage(source)
    assert_refused(catalog.CAMVID, tmp_path / "out", source, *named)


@pytest.mark.parametrize("name", ["valannot missing", "empty split", "image without its label"])
def test_missing_files_are_reported_before_anything_is_read(name, source, tmp_path, monkeypatch):
    BROKEN[name][0](source)
    monkeypatch.setattr(base_module, "read_pair", None)  # reading any would raise a TypeError
    assert_refused(catalog.CAMVID, tmp_path / "out", source)


@pytest.mark.parametrize("name", ["label value 12", "image cut off", "image without its label"])
def test_repaired_source_is_prepared(name, source, tmp_path):
    BROKEN[name][0](source)
    with contextlib.suppress(UserError):
        builders.prepare(catalog.CAMVID, tmp_path / "out", source)
    shutil.rmtree(source)
    write_tree(source)
    assert len(builders.records(builders.prepare(catalog.CAMVID, tmp_path / "out", source), "train")) == COUNTS["train"]


def test_a_dataset_that_is_not_known_is_answered_with_those_that_are(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"^config\.data\.name is 'streets', .*'ade20k', 'camvid', .*'folder'.* DATASETS"
    ):
        catalog.get("streets")
    streets = dataclasses.replace(catalog.CAMVID, name="streets")
    monkeypatch.setitem(catalog.DATASETS, "streets", streets)
    with pytest.raises(UserError, match=r"^config\.data\.name is 'streets', a dataset without a builder: .* BUILDERS"):
        builders.prepare(catalog.get("streets"), tmp_path)


def test_source_not_set_names_the_field(tmp_path):
    assert_refused(catalog.CAMVID, tmp_path / "out", "", "config.data.source")


def test_missing_source_is_named(tmp_path):
    assert_refused(
        catalog.CAMVID, tmp_path / "out", tmp_path / "nowhere", "config.data.source", str(tmp_path / "nowhere")
    )


def test_source_that_is_a_file_is_named(tmp_path):
    (tmp_path / "camvid.zip").write_bytes(b"PK")
    assert_refused(catalog.CAMVID, tmp_path / "out", tmp_path / "camvid.zip", "config.data.source", "camvid.zip")


# --- scenes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def few_scenes(tmp_path_factory) -> tuple[Path, builders.SegmentationBuilder]:
    """(data_dir, builder) of the first pictures of each split."""
    with pytest.MonkeyPatch.context() as patch:
        few = dataclasses.replace(catalog.SCENES, splits={"train": 8, "val": 5})
        patch.setattr(scenes_module.ScenesBuilder, "DATASET", few)
        data_dir = tmp_path_factory.mktemp("scenes")
        return data_dir, builders.prepare(few, data_dir)


def test_scenes_splits_never_share_an_image(few_scenes):
    pictures = [record["image"] for split in ("train", "val") for record in builders.records(few_scenes[1], split)] + [
        scenes.render(seed, index)[1].tobytes() for seed in scenes_module.SEEDS.values() for index in range(12)
    ]
    assert len(set(pictures)) == len(pictures) == 13 + 24


@pytest.mark.parametrize("split", ["train", "val"])
def test_scenes_records_are_the_renders(few_scenes, split):
    decoder = partial(decode_record, num_classes=len(scenes.CLASSES), ignore_label=IGNORED)
    for example in examples(builders.records(few_scenes[1], split), decode=decoder):
        name, index = example["id"].rsplit("_", 1)
        image, label = scenes.render(scenes_module.SEEDS[split], int(index))
        assert name == split
        assert np.array_equal(example["label"], label)
        error = np.abs(example["image"].astype(float) - image)
        assert error.mean() < 6, "JPEG, in RGB order"


def test_records_of_scenes_places_are_their_renders(tmp_path, monkeypatch):
    few = dataclasses.replace(catalog.SCENES_PLACES, splits={"train": 2, "val": 2})
    monkeypatch.setattr(scenes_module.ScenesPlacesBuilder, "DATASET", few)
    builder = builders.prepare(few, tmp_path)
    decoder = partial(decode_record, num_classes=len(scenes.CLASSES), ignore_label=IGNORED)
    for split, seed in scenes_module.SEEDS.items():
        for example in examples(builders.records(builder, split), decode=decoder):
            label = scenes.render_places(seed, int(example["id"].rsplit("_", 1)[1]))[1]
            assert np.array_equal(example["label"], label)


def test_prepared_scenes_ignore_a_source(few_scenes, tmp_path):
    """A source left over from another dataset's command has no effect."""
    assert builders.prepare(catalog.SCENES, few_scenes[0], tmp_path).is_prepared()


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"name": 1}', b"[" * 100_000])
def test_a_damaged_description_of_records_is_said_in_one_sentence(few_scenes, tmp_path, content):
    shutil.copytree(few_scenes[0], tmp_path, dirs_exist_ok=True)
    [path] = tmp_path.rglob("dataset_info.json")
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        builders.records(builders.prepare(catalog.SCENES, tmp_path), "train")
    said = str(raised.value)
    assert f"delete {tmp_path / 'scenes'} and run --mode=prepare again" in said and "\n" not in said and len(said) < 600


def test_an_abandoned_preparation_is_removed_by_the_next_run(few_scenes, tmp_path):
    shutil.copytree(few_scenes[0], tmp_path, dirs_exist_ok=True)
    abandoned, live = (tmp_path / "scenes" / f"incomplete.{name}_1.0.0" for name in ("ABCDEF", "GHIJKL"))
    abandoned.mkdir()
    live.mkdir()
    os.utime(abandoned, (0, 0))
    builders.prepare(catalog.SCENES, tmp_path)
    assert live.exists() and not abandoned.exists()
