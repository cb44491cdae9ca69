"""The COCO-Stuff builder reads train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip, packed or unpacked."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import assert_refused, pack, prepared_examples, save

from configs import coco_stuff
from cpnet_jax.config.check import resolve_classes
from cpnet_jax.data import catalog
from cpnet_jax.data.builders.coco_stuff import CocoStuffBuilder

IDS = {"train2017": ["000000000009", "000000000025"], "val2017": ["000000000139"]}
RNG = np.random.default_rng(0)
# Published ids and names (labels.txt): first and last, and both sides of classes that COCO never segmented.
PUBLISHED = {1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack", 90: "toothbrush",
             92: "banner", 157: "sky-other", 182: "wood"}  # fmt: skip
UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


def label_of(name: str) -> np.ndarray:
    return np.random.default_rng(int(name)).choice(np.array([*(i - 1 for i in PUBLISHED), 255], np.uint8), (16, 24))


def write(root: Path, images: str = "images/", labels: str = "annotations/") -> Path:
    for folder, names in IDS.items():
        for name in names:
            save(root / f"{images}{folder}" / f"{name}.jpg", RNG.integers(0, 256, (16, 24, 3)).astype(np.uint8))
            save(root / f"{labels}{folder}" / f"{name}.png", label_of(name))
    return root


def assert_prepared(source: Path, tmp_path: Path) -> None:
    found = prepared_examples(catalog.COCO_STUFF, tmp_path / "out", source)
    assert {split: sorted(examples) for split, examples in found.items()} == {
        "train": IDS["train2017"],
        "val": IDS["val2017"],
    }
    table = np.full(256, 255)
    for value, name in PUBLISHED.items():
        table[value - 1] = catalog.COCO_STUFF.classes.index(name)
    for name, example in (found["train"] | found["val"]).items():
        assert np.array_equal(example["label"], table[label_of(name)])


@pytest.mark.parametrize("labels", ["annotations/", "images/"])
def test_labels_may_lie_beside_the_images_or_apart(labels, tmp_path):
    assert_prepared(write(tmp_path / "raw", labels=labels), tmp_path)


def test_the_three_archives_are_read_as_downloaded(tmp_path):
    whole = write(tmp_path / "whole", images="", labels="stuffthingmaps/")
    folder = tmp_path / "raw"
    folder.mkdir()
    for split in IDS:
        pack(whole / split, folder / f"{split}.zip", inside=f"{split}/")
    pack(whole / "stuffthingmaps", folder / "stuffthingmaps_trainval2017.zip")
    assert_prepared(folder, tmp_path)


def test_what_mmsegmentations_converter_adds_is_left_out(tmp_path):
    source = write(tmp_path / "raw")
    for path in [*source.glob("annotations/*/*.png")]:
        shutil.copy(path, path.with_name(f"{path.stem}_labelTrainIds.png"))
    assert_prepared(source, tmp_path)


def test_the_label_rule_follows_the_published_ids():
    rule, classes = CocoStuffBuilder.LABEL_RULE, catalog.COCO_STUFF.classes
    assert sorted(rule) == [*range(182), 255]
    assert all(classes[rule[value - 1]] == name for value, name in PUBLISHED.items())
    assert {value + 1 for value, label in rule.items() if label == 255} == {*UNUSED, 256}
    assert sorted(label for label in rule.values() if label != 255) == [*range(171)]


def test_the_descriptor_and_the_config_are_as_published():
    dataset = catalog.COCO_STUFF
    assert len(set(dataset.classes)) == len(set(dataset.palette)) == 171 and (0, 0, 0) not in dataset.palette
    assert dataset.splits == {"train": 118_287, "val": 5_000}
    resolve_classes(coco_stuff.get_config(), dataset.classes)


def other_value(root: Path) -> None:
    Image.fromarray(np.full((16, 24), 182, np.uint8)).save(root / "annotations/val2017/000000000139.png")


BROKEN = {
    "no labels": (lambda root: shutil.rmtree(root / "annotations"), ["train2017/*[0-9].png", "stuffthingmaps"]),
    "no images": (lambda root: shutil.rmtree(root / "images/val2017"), ["val2017/*[0-9].jpg"]),
    "a missing label": (lambda root: (root / "annotations/train2017/000000000009.png").unlink(), ["000000000009.jpg"]),
    "labels twice": (
        lambda root: shutil.copytree(root / "annotations", root / "copy"),
        ["copy/train2017/", "keep only"],
    ),
    "the ids of another version": (other_value, ["000000000139.png", "[182]"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_source_is_refused_in_one_line(name, tmp_path):
    breaks, named = BROKEN[name]
    source = write(tmp_path / "raw")
    breaks(source)
    assert_refused(catalog.COCO_STUFF, tmp_path / "out", source, *named)
