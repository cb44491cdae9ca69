"""Images, masks and the class file of a user's folder are found in every common layout."""

import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from users_folder import NAMES, assert_one_sentence, examples_of, ids, picture, prepare, write

from cpnet_jax.data import builders
from cpnet_jax.data.builders.pairing import find_pairs
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.errors import UserError


def test_images_masks_and_classes_txt_are_enough(tmp_path):
    source = write(tmp_path / "own")
    builder = prepare(source, tmp_path / "data")
    found = examples_of(builder)
    assert sorted(found) == ["a0", "a1", "a2", "a3"]
    assert set(builder.info.splits) == {"train", "val"}
    for index in range(4):
        assert np.array_equal(found[f"a{index}"]["image"], np.asarray(picture(index)))
        assert np.array_equal(found[f"a{index}"]["label"], ids(index))
    assert (builder.DATASET.classes, len(set(builder.DATASET.palette))) == (NAMES, 3)


def test_records_can_be_pickled(tmp_path):
    records = builders.records(prepare(write(tmp_path / "own"), tmp_path / "data"), "train")
    sent = pickle.loads(pickle.dumps(records))
    assert [sent[index] for index in range(len(records))] == [records[index] for index in range(len(records))]


LAYOUTS = {
    "sub-folders": ({"image": "images/berlin/{}.png", "mask": "masks/berlin/{}.png"}, {}, "berlin/{}"),
    "a suffix, found out": ({"mask": "masks/{}_mask.png"}, {}, "{}"),
    "a suffix, given": ({"mask": "masks/{}_mask.png"}, {"mask_name": "*_mask"}, "{}"),
    "two affixes": (
        {"image": "images/{}_rgb.png", "mask": "masks/gt_{}.png"},
        {"image_name": "*_rgb", "mask_name": "gt_*"},
        "{}",
    ),
    "side by side": (
        {"image": "all/{}.png", "mask": "all/{}_m.png"},
        {"images": "all", "masks": "all", "mask_name": "*_m"},
        "{}",
    ),
    "side by side at the top": (
        {"image": "{}.png", "mask": "{}_m.png"},
        {"images": ".", "masks": ".", "mask_name": "*_m"},
        "{}",
    ),
    "masks within the images' folder": ({"image": "{}.png"}, {"images": "."}, "{}"),
    "other folders": ({"image": "a/b/{}.png", "mask": "c/{}.png"}, {"images": "a/b", "masks": "c/"}, "{}"),
    "an outer folder": ({"image": "mine/images/{}.png", "mask": "mine/masks/{}.png"}, {}, "mine/{}"),
    "other endings": ({"image": "images/{}.TIF", "mask": "masks/{}.bmp"}, {}, "{}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_are_found_in_every_layout(layout, tmp_path):
    files, options, expected = LAYOUTS[layout]
    source = write(tmp_path / "own", **files)
    found, _ = find_pairs(Source(source), FolderLayout(**options))
    pairs = {pair.name: pair for split in found.values() for pair in split}
    assert sorted(pairs) == [expected.format(f"a{index}") for index in range(4)]
    for index in range(4):
        pair = pairs[expected.format(f"a{index}")]
        assert (pair.image, pair.label) == tuple(
            files.get(what, f"{what}s/{{}}.png").format(f"a{index}") for what in ("image", "mask")
        )


@pytest.mark.parametrize("outer", [Path(), Path("mine")])
def test_a_zip_archive_is_read_in_place(outer, tmp_path):
    source = write(tmp_path / "own")
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for path in source.rglob("*.*"):
            archive.write(path, outer / path.relative_to(source))
    shutil.rmtree(source)
    found = examples_of(prepare(tmp_path / "own.zip", tmp_path / "data"))
    assert np.array_equal(found[str(outer / "a2")]["label"], ids(2)) and len(found) == 4


def test_class_files_are_found_in_capitals(tmp_path):
    source = write(tmp_path / "own")
    (source / "classes.txt").rename(source / "Classes.TXT")
    assert builders.describe_folder(source, FolderLayout()).classes == NAMES


OTHER_CLASS_FILES = {
    "class_dict.csv": "name,r,g,b\nroad,128,64,128\nsky,70,130,180\ntree,107,142,35\n",
    "label_colors.txt": "128 64 128\troad\n70 130 180\tsky\n107 142 35\ttree\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180::\ntree:107,142,35::\n",
    "labels.txt": "__ignore__\nroad\nsky\ntree\n",
    "_classes.csv": "Pixel Value, Class\n0, road\n1, sky\n2, tree\n",
}


@pytest.mark.parametrize("name", OTHER_CLASS_FILES)
def test_class_files_of_other_tools_are_found_by_their_names(tmp_path, name):
    source = write(tmp_path / "own")
    (source / name).write_text(OTHER_CLASS_FILES[name])
    (source / "classes.txt").write_text("a\nb\n")
    assert builders.describe_folder(source, FolderLayout()).classes == ("a", "b")
    (source / "classes.txt").unlink()
    assert builders.describe_folder(source, FolderLayout()).classes == NAMES
    for split in ("train", "valid"):  # one for each split, as Roboflow writes them
        (source / split).mkdir()
        (source / split / name).write_text(OTHER_CLASS_FILES[name])
    assert builders.describe_folder(source, FolderLayout()).classes == NAMES
    (source / "train" / name).write_text(OTHER_CLASS_FILES[name].replace("sky", "sea"))
    with pytest.raises(UserError, match=f"has both .*{name}") as refused:
        builders.describe_folder(source, FolderLayout())
    assert_one_sentence(refused.value, "set config.data.folder.classes")
