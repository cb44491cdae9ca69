"""The Cityscapes builder reads the exact layout of leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import assert_refused, pack, prepared_examples, save, truncate

from cpnet_jax.config.check import resolve_classes
from cpnet_jax.data import catalog

# (name, id, trainId, colour) in the official labels.py; trainIds 255 and -1 are not evaluated.
PUBLISHED = [
    ("unlabeled", 0, 255, (0, 0, 0)),
    ("ego vehicle", 1, 255, (0, 0, 0)),
    ("rectification border", 2, 255, (0, 0, 0)),
    ("out of roi", 3, 255, (0, 0, 0)),
    ("static", 4, 255, (0, 0, 0)),
    ("dynamic", 5, 255, (111, 74, 0)),
    ("ground", 6, 255, (81, 0, 81)),
    ("road", 7, 0, (128, 64, 128)),
    ("sidewalk", 8, 1, (244, 35, 232)),
    ("parking", 9, 255, (250, 170, 160)),
    ("rail track", 10, 255, (230, 150, 140)),
    ("building", 11, 2, (70, 70, 70)),
    ("wall", 12, 3, (102, 102, 156)),
    ("fence", 13, 4, (190, 153, 153)),
    ("guard rail", 14, 255, (180, 165, 180)),
    ("bridge", 15, 255, (150, 100, 100)),
    ("tunnel", 16, 255, (150, 120, 90)),
    ("pole", 17, 5, (153, 153, 153)),
    ("polegroup", 18, 255, (153, 153, 153)),
    ("traffic light", 19, 6, (250, 170, 30)),
    ("traffic sign", 20, 7, (220, 220, 0)),
    ("vegetation", 21, 8, (107, 142, 35)),
    ("terrain", 22, 9, (152, 251, 152)),
    ("sky", 23, 10, (70, 130, 180)),
    ("person", 24, 11, (220, 20, 60)),
    ("rider", 25, 12, (255, 0, 0)),
    ("car", 26, 13, (0, 0, 142)),
    ("truck", 27, 14, (0, 0, 70)),
    ("bus", 28, 15, (0, 60, 100)),
    ("caravan", 29, 255, (0, 0, 90)),
    ("trailer", 30, 255, (0, 0, 110)),
    ("train", 31, 16, (0, 80, 100)),
    ("motorcycle", 32, 17, (0, 0, 230)),
    ("bicycle", 33, 18, (119, 11, 32)),
    ("license plate", -1, -1, (0, 0, 142)),
]
EVALUATED = [row for row in PUBLISHED if row[2] not in (255, -1)]
# As stored in eight bits.
RAW_IDS = np.array([label_id for _, label_id, _, _ in PUBLISHED]).astype(np.uint8)

# Split -> ids; the published labels of the test split are dummies.
FRAMES = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "zurich_000121_000019"],
    "val": ["frankfurt_000000_000294", "lindau_000000_000019"],
    "test": ["berlin_000000_000019"],
}
TRAIN_LABEL = "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
TRAIN_IMAGE = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"


def raw_label(frame: str) -> np.ndarray:
    """A label with all ids, in an order that differs between frames."""
    rng = np.random.default_rng(list(frame.encode()))
    return rng.permutation(np.resize(RAW_IDS, 8 * 16)).reshape(8, 16)


def image_of(frame: str) -> np.ndarray:
    return np.random.default_rng(list(frame.encode())).integers(0, 256, (8, 16, 3)).astype(np.uint8)


def write_images(root: Path) -> Path:
    for split, frames in FRAMES.items():
        for frame in frames:
            save(root / f"leftImg8bit/{split}/{frame.split('_')[0]}/{frame}_leftImg8bit.png", image_of(frame))
    (root / "README").write_text("images")
    (root / "license.txt").write_text("license")
    return root


def write_labels(root: Path) -> Path:
    """Write greyscale labelIds, 16-bit instanceIds, RGBA colours and polygons of each frame."""
    for split, frames in FRAMES.items():
        for frame in frames:
            start = f"gtFine/{split}/{frame.split('_')[0]}/{frame}_gtFine"
            label = raw_label(frame) if split != "test" else np.zeros((8, 16), np.uint8)
            save(root / f"{start}_labelIds.png", label)
            save(root / f"{start}_instanceIds.png", label.astype(np.uint16) * 1000)
            save(root / f"{start}_color.png", np.zeros((8, 16, 4), np.uint8))
            (root / f"{start}_polygons.json").write_text('{"imgHeight": 8, "imgWidth": 16, "objects": []}')
    (root / "README").write_text("labels")
    (root / "license.txt").write_text("license")
    return root


def unpacked(root: Path) -> Path:
    return write_labels(write_images(root))


def zipped(root: Path) -> Path:
    """Both archives side by side."""
    root.mkdir(parents=True)
    pack(write_images(root.parent / "images"), root / "leftImg8bit_trainvaltest.zip")
    pack(write_labels(root.parent / "labels"), root / "gtFine_trainvaltest.zip")
    return root


def labels_unpacked(root: Path) -> Path:
    """Labels unpacked, images in their archive."""
    (zipped(root) / "gtFine_trainvaltest.zip").unlink()
    return write_labels(root)


def folder_an_archive(root: Path) -> Path:
    """Each archive unpacked into a folder named after it."""
    write_images(root / "leftImg8bit_trainvaltest")
    write_labels(root / "gtFine_trainvaltest")
    return root


FORMS = {
    "both folders": unpacked,
    "both folders in another": lambda root: unpacked(root / "cityscapes").parent,
    "both archives": zipped,
    "an archive and a folder": labels_unpacked,
    "a folder an archive": folder_an_archive,
    "one archive of both folders": lambda root: pack(unpacked(root), root.with_suffix(".zip")),
}


@pytest.fixture
def tree(tmp_path) -> Path:
    return unpacked(tmp_path / "cityscapes")


@pytest.mark.parametrize("form", FORMS)
def test_every_label_id_becomes_its_published_train_id(form, tmp_path):
    examples = prepared_examples(catalog.CITYSCAPES, tmp_path / "out", FORMS[form](tmp_path / "raw"))
    assert {split: sorted(examples[split]) for split in examples} == {s: FRAMES[s] for s in ("train", "val")}
    for frame, example in (examples["train"] | examples["val"]).items():
        assert np.array_equal(example["image"], image_of(frame))
        for name, label_id, train_id, _ in PUBLISHED:
            became = set(example["label"][raw_label(frame) == label_id % 256].tolist())
            assert became == {train_id % 256}, name


def test_names_and_palette_are_the_published_ones():
    dataset = catalog.CITYSCAPES
    assert [(name, dataset.classes.index(name)) for name in dataset.classes] == [row[:3:2] for row in EVALUATED]
    assert list(dataset.palette) == [colour for *_, colour in EVALUATED] and len(dataset.palette) == 19
    assert dataset.splits == {"train": 2975, "val": 500}


def test_the_config_fits_the_dataset():
    config = importlib.import_module("configs.cityscapes").get_config()
    resolve_classes(config, catalog.get(config.data.name).classes)


# case -> (change to the source, what the error message must name)
BROKEN = {
    "no labels": (lambda root: shutil.rmtree(root / "gtFine"), ["gtFine/train/*", "gtFine_trainvaltest.zip"]),
    "no images": (lambda root: shutil.rmtree(root / "leftImg8bit"), ["leftImg8bit/train/*", "registration"]),
    "no val": (lambda root: shutil.rmtree(root / "gtFine/val"), ["gtFine/val/*"]),
    "image without its label": (lambda root: (root / TRAIN_LABEL).unlink(), [TRAIN_IMAGE, "no label"]),
    "label without its image": (lambda root: (root / TRAIN_IMAGE).unlink(), [TRAIN_LABEL, "no image"]),
    "label id 34": (lambda root: save(root / TRAIN_LABEL, np.full((8, 16), 34, np.uint8)), [TRAIN_LABEL, "[34]"]),
    "label id 254": (lambda root: save(root / TRAIN_LABEL, np.full((8, 16), 254, np.uint8)), [TRAIN_LABEL, "[254]"]),
    "instance ids for labels": (
        lambda root: save(root / TRAIN_LABEL, np.full((8, 16), 26001, np.uint16)),
        [TRAIN_LABEL, "one-channel"],
    ),
    "label in colours": (
        lambda root: Image.open(root / TRAIN_LABEL).convert("RGB").save(root / TRAIN_LABEL),
        [TRAIN_LABEL, "RGB"],
    ),
    "label of another size": (
        lambda root: save(root / TRAIN_LABEL, np.zeros((8, 15), np.uint8)),
        [TRAIN_LABEL, "15x8", "16x8"],
    ),
    "image cut off": (lambda root: truncate(root / TRAIN_IMAGE), [TRAIN_IMAGE]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_tree_is_refused_in_one_line(name, tree, tmp_path):
    damage, named = BROKEN[name]
    damage(tree)
    assert_refused(catalog.CITYSCAPES, tmp_path / "out", tree, *named)


@pytest.mark.parametrize(
    ("missing", "pattern"),
    [("leftImg8bit_trainvaltest.zip", "leftImg8bit/train/"), ("gtFine_trainvaltest.zip", "gtFine/train/")],
)
def test_one_archive_without_the_other_is_refused(missing, pattern, tmp_path):
    source = zipped(tmp_path / "raw")
    (source / missing).unlink()
    assert_refused(catalog.CITYSCAPES, tmp_path / "out", source, pattern, missing)


@pytest.mark.parametrize("archive", ["leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"])
def test_a_truncated_archive_is_refused(archive, tmp_path):
    source = zipped(tmp_path / "raw")
    truncate(source / archive)
    assert_refused(
        catalog.CITYSCAPES, tmp_path / "out", source, archive, "not a complete zip archive", "download it again"
    )


def test_another_dataset_is_refused(tmp_path):
    source = tmp_path / "ADEChallengeData2016"
    save(source / "images/training/ADE_train_00000001.jpg", np.zeros((4, 4, 3), np.uint8))
    save(source / "annotations/training/ADE_train_00000001.png", np.zeros((4, 4), np.uint8))
    assert_refused(catalog.CITYSCAPES, tmp_path / "out", source, "leftImg8bit/train", "www.cityscapes-dataset.com")
