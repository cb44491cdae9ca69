"""The ADE20K builder reads trees in the exact layout of ADEChallengeData2016."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import assert_refused, pack, prepared_examples, save, truncate

from cpnet_jax.config.check import resolve_classes
from cpnet_jax.data import catalog

# First names in the challenge's objectInfo150.txt, in order; label 1 is "wall".
PUBLISHED_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck,
tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade
name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic
light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
# A sample of color150.mat.
PUBLISHED_COLOURS = {
    "wall": (120, 120, 120),
    "building": (180, 120, 120),
    "sky": (6, 230, 230),
    "floor": (80, 50, 50),
    "tree": (4, 200, 3),
    "road": (140, 140, 140),
    "bed": (204, 5, 255),
    "person": (150, 5, 61),
    "car": (0, 102, 200),
    "water": (61, 230, 250),
    "mirror": (220, 220, 220),
    "desk": (10, 255, 71),
    "bathtub": (102, 8, 255),
    "column": (255, 8, 41),
    "sand": (160, 150, 20),
    "skyscraper": (140, 140, 140),
    "case": (0, 0, 255),
    "river": (11, 200, 200),
    "flower": (255, 0, 0),
    "kitchen island": (0, 255, 41),
    "hovel": (255, 0, 255),
    "tower": (255, 184, 184),
    "television": (0, 255, 194),
    "pole": (51, 0, 255),
    "buffet": (255, 112, 0),
    "fountain": (8, 184, 170),
    "stool": (0, 214, 255),
    "bag": (70, 184, 160),
    "microwave": (255, 0, 235),
    "lake": (10, 190, 212),
    "traffic light": (41, 0, 255),
    "pier": (71, 0, 255),
    "radiator": (255, 214, 0),
    "glass": (25, 194, 194),
    "clock": (102, 255, 0),
    "flag": (92, 0, 255),
}
NAMES = [name.strip() for name in PUBLISHED_NAMES.replace("\n", " ").split(",")]
# Split -> folder, prefix of the file names, number.
SPLITS = {"train": ("training", "ADE_train_", 3), "val": ("validation", "ADE_val_", 2)}
TRAIN_LABEL = "annotations/training/ADE_train_00000001.png"
TRAIN_IMAGE = "images/training/ADE_train_00000001.jpg"


def raw_label(split: str, index: int) -> np.ndarray:
    """A label with all of 0 .. 150, at different places in every label."""
    rng = np.random.default_rng([ord(split[0]), index])
    return rng.permutation(np.resize(np.arange(151), 12 * (15 + index))).reshape(12, -1).astype(np.uint8)


def write_tree(root: Path) -> Path:
    """Write the archive's folder ADEChallengeData2016: RGB JPEGs, greyscale PNGs and two text files."""
    for split, (folder, prefix, count) in SPLITS.items():
        for index in range(1, count + 1):
            label = raw_label(split, index)
            image = np.random.default_rng(index).integers(0, 256, (*label.shape, 3)).astype(np.uint8)
            save(root / f"images/{folder}/{prefix}{index:08d}.jpg", image)
            save(root / f"annotations/{folder}/{prefix}{index:08d}.png", label)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n1\t0.1576\t11664\t1172\twall\n")
    (root / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal\n")
    return root


def as_the_archive(tmp_path: Path) -> Path:
    return pack(write_tree(tmp_path / "tree"), tmp_path / "ADEChallengeData2016.zip", "ADEChallengeData2016/")


def as_a_folder_with_the_archive(tmp_path: Path) -> Path:
    (tmp_path / "downloads").mkdir()
    shutil.move(as_the_archive(tmp_path), tmp_path / "downloads")
    return tmp_path / "downloads"


FORMS = {
    "the folder": lambda tmp_path: write_tree(tmp_path / "ADEChallengeData2016"),
    "the folder around it": lambda tmp_path: write_tree(tmp_path / "raw" / "ADEChallengeData2016").parent,
    "the archive": as_the_archive,
    "a folder with the archive": as_a_folder_with_the_archive,
}


@pytest.fixture
def tree(tmp_path) -> Path:
    return write_tree(tmp_path / "raw" / "ADEChallengeData2016")


@pytest.mark.parametrize("form", FORMS)
def test_every_label_becomes_the_class_of_its_published_name(form, tmp_path):
    examples = prepared_examples(catalog.ADE20K, tmp_path / "out", FORMS[form](tmp_path))
    assert examples.keys() == SPLITS.keys()
    for split, (_, prefix, count) in SPLITS.items():
        assert sorted(examples[split]) == [f"{prefix}{index:08d}" for index in range(1, count + 1)]
        for index in range(1, count + 1):
            raw, label = raw_label(split, index), examples[split][f"{prefix}{index:08d}"]["label"]
            assert (label[raw == 0] == 255).all(), "other"
            for value, name in enumerate(NAMES, start=1):
                assert {catalog.ADE20K.classes[i] for i in label[raw == value]} == {name}


def test_names_and_palette_are_the_published_ones():
    dataset = catalog.ADE20K
    assert list(dataset.classes) == NAMES and len(set(NAMES)) == 150
    palette = dict(zip(dataset.classes, dataset.palette, strict=True))
    assert {name: palette[name] for name in PUBLISHED_COLOURS} == PUBLISHED_COLOURS
    assert len(set(dataset.palette)) == 149, "only road and skyscraper share one"
    assert dataset.splits == {"train": 20210, "val": 2000}


def test_the_config_fits_the_dataset():
    config = importlib.import_module("configs.ade20k").get_config()
    resolve_classes(config, catalog.get(config.data.name).classes)
    assert config.data.name == "ade20k"


def full_release_of_2016(root: Path) -> None:
    folder = root / "ADE20K_2016_07_26"
    picture = np.zeros((4, 4, 3), np.uint8)
    for suffix in (".jpg", "_seg.png", "_parts_1.png"):
        save(folder / f"images/training/a/abbey/ADE_train_00000970{suffix}", picture)
        save(folder / f"images/validation/a/abbey/ADE_val_00000001{suffix}", picture)
    (folder / "index_ade20k.mat").touch()


def full_release_of_2021(root: Path) -> None:
    folder = root / "ADE20K_2021_17_01"
    picture = np.zeros((4, 4, 3), np.uint8)
    for suffix in (".jpg", "_seg.png"):
        save(folder / f"images/ADE/training/urban/street/ADE_train_00016869{suffix}", picture)
    (folder / "index_ade20k.pkl").touch()


@pytest.mark.parametrize("write", [full_release_of_2016, full_release_of_2021])
@pytest.mark.parametrize("named", ["the folder around it", "the folder", "the archive", "without its index"])
def test_the_full_release_is_refused_by_name(write, named, tmp_path):
    source = tmp_path / "raw"
    write(source)
    if named == "the folder":
        source = next(source.iterdir())
    elif named == "the archive":
        source = pack(source, tmp_path / "full.zip")
    elif named == "without its index":
        next(source.glob("*/index_ade20k.*")).unlink()
    assert_refused(catalog.ADE20K, tmp_path / "out", source, "full ADE20K release", "ADEChallengeData2016")


def test_the_challenge_is_read_beside_the_full_release(tree, tmp_path):
    full_release_of_2016(tree.parent)
    full_release_of_2021(tree.parent)
    examples = prepared_examples(catalog.ADE20K, tmp_path / "out", tree.parent)
    assert {split: len(examples[split]) for split in examples} == {"train": 3, "val": 2}


# case -> (change to the source, what the error message must name)
BROKEN = {
    "no training images": (lambda root: shutil.rmtree(root / "images/training"), ["images/training/*.jpg"]),
    "no training split": (
        lambda root: [shutil.rmtree(root / f"{kind}/training") for kind in ("images", "annotations")],
        ["images/training/*.jpg", "ADEChallengeData2016.zip"],
    ),
    "no annotations": (lambda root: shutil.rmtree(root / "annotations"), ["annotations/training/*.png"]),
    "image without its label": (lambda root: (root / TRAIN_LABEL).unlink(), [TRAIN_IMAGE, "no label"]),
    "label without its image": (lambda root: (root / TRAIN_IMAGE).unlink(), [TRAIN_LABEL, "no image"]),
    "label 151": (
        lambda root: save(root / TRAIN_LABEL, np.where(raw_label("train", 1) == 7, 151, raw_label("train", 1))),
        [TRAIN_LABEL, "[151]", "0 to 150"],
    ),
    "labels that were reduced already": (
        lambda root: save(root / TRAIN_LABEL, raw_label("train", 1) - np.uint8(1)),
        [TRAIN_LABEL, "[255]"],
    ),
    "label in colours": (
        lambda root: Image.open(root / TRAIN_LABEL).convert("RGB").save(root / TRAIN_LABEL),
        [TRAIN_LABEL, "RGB"],
    ),
    "truncated JPEG": (lambda root: truncate(root / TRAIN_IMAGE), [TRAIN_IMAGE]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_tree_is_refused_in_one_line(name, tree, tmp_path):
    damage, named = BROKEN[name]
    damage(tree)
    assert_refused(catalog.ADE20K, tmp_path / "out", tree, *named)


def test_a_bad_file_in_an_archive_is_named(tree, tmp_path):
    BROKEN["label 151"][0](tree)
    archive = pack(tree.parent, tmp_path / "ADEChallengeData2016.zip")
    named = str(archive / "ADEChallengeData2016" / TRAIN_LABEL)
    assert_refused(catalog.ADE20K, tmp_path / "out", archive, named, "[151]")


def test_another_dataset_is_refused(tmp_path):
    source = tmp_path / "camvid"
    for folder in ("train", "trainannot", "val", "valannot"):
        save(source / folder / "0001TP_006690.png", np.zeros((4, 4), np.uint8))
    assert_refused(catalog.ADE20K, tmp_path / "out", source, "images/training", "sceneparsing.csail.mit.edu")


def test_a_truncated_archive_is_refused(tmp_path):
    archive = as_the_archive(tmp_path)
    truncate(archive)
    assert_refused(
        catalog.ADE20K, tmp_path / "out", archive, str(archive), "not a complete zip archive", "download it again"
    )
