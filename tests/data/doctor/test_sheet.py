"""The sheet of --mode=check_data shows every class and every unknown value, in a bounded size."""

import numpy as np
import pytest
from camvid_source import Tree, check, encoded, found_in, label_of
from PIL import Image

from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.data.doctor.examined_data import Entry
from cpnet_jax.data.doctor.scan import Observation
from cpnet_jax.data.doctor.sheet import COLUMNS, ROWS, UNKNOWN_COLOUR, choose


def sheet_with(label, folder):
    """The sheet of a dataset with one more training image, which has this label."""
    tree = Tree(folder / "raw")
    tree.add("train/wrong", label=encoded(label))
    check(tree.root, folder)
    return np.asarray(Image.open(folder / "run/check_data/sheet.png").convert("RGB"))


def test_the_sheet_shows_overlays_and_a_legend_of_every_class_and_of_unknown_values(tmp_path):
    label = label_of(0)
    label[5, 7] = 200
    sheet = sheet_with(label, tmp_path)
    colours = {tuple(colour) for colour in sheet[:60].reshape(-1, 3).tolist()}
    assert {*CAMVID.palette, UNKNOWN_COLOUR} <= colours
    assert len(np.unique(sheet[100:].reshape(-1, 3), axis=0)) > 1000, "images, not flat colours alone"


def test_a_single_unknown_pixel_is_visible(tmp_path):
    label = label_of(0)
    label[40, 40] = 12
    sheet = sheet_with(label, tmp_path)
    assert 9 <= (sheet[60:] == UNKNOWN_COLOUR).all(-1).sum() <= 16, "one pixel, enlarged"


@pytest.mark.parametrize("place", [0, 1, 50, 98, 99])
def test_the_sheet_is_limited_and_shows_a_class_that_only_one_image_has(place):
    entry = Entry("train", "a.png", "a", lambda: b"", None, lambda: label_of(0))
    seen = [
        Observation(entry, values={1: 5, 2: 5} | ({10: 1} if i == place else {}), image_digest="-") for i in range(100)
    ]
    chosen = choose(seen, 12)
    assert seen[place] in chosen and len(set(chosen)) == len(chosen) == 12
    assert [len(choose(seen[:few], 12)) for few in (0, 1, 5)] == [0, 1, 5]


def test_a_large_tree_gets_a_sheet_of_bounded_size(tmp_path):
    tree = Tree(tmp_path / "raw")
    for index in range(COLUMNS * ROWS + 5):
        tree.add(f"val/more_{index}")
    check(tree.root, tmp_path)
    height, width = np.asarray(Image.open(tmp_path / "run/check_data/sheet.png")).shape[:2]
    assert height < ROWS * 320 + 60 and width < COLUMNS * 320


def test_an_old_sheet_is_deleted_if_nothing_can_be_drawn(tmp_path):
    tree = Tree(tmp_path / "raw")
    check(tree.root, tmp_path)
    assert (tmp_path / "run/check_data/sheet.png").exists()
    for path in tree.root.glob("*annot/*"):
        path.write_bytes(b"")
    report = check(tree.root, tmp_path)
    assert not (tmp_path / "run/check_data/sheet.png").exists()
    assert set(found_in(report)["no_labels"]) == {"train", "val"}
