"""The folder builder reads all common encodings of masks and names of files, and refuses the rest in one line."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from forked_program import run_all
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from cpnet_jax.config.check import resolve_classes
from cpnet_jax.data import builders
from cpnet_jax.data.builders import masks as mask_reading
from cpnet_jax.data.builders.pairing import find_pairs
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.data.catalog.folder import describe_prepared
from cpnet_jax.data.doctor import examined_data
from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.scan import scan
from cpnet_jax.data.records import decode_record
from cpnet_jax.data.stream import examples
from cpnet_jax.errors import UserError
from cpnet_jax.modes.check_data import check_data

ROOT = Path(__file__).parents[2]
IGNORED = 255
COLOURS = ((128, 64, 128), (70, 130, 180), (107, 142, 35))
NAMES = ("road", "sky", "tree")
PLAIN = "road\nsky\ntree\n"
COLOURED = "road 128 64 128\nsky #4682b4\ntree 107,142,35\nignore 0 0 0\n"
decode3 = partial(decode_record, num_classes=3, ignore_label=IGNORED)


def ids(index: int) -> np.ndarray:
    """Training ids with all classes and ignored pixels; the size differs between indices."""
    label = np.random.default_rng(index).integers(0, 3, (10 + index, 14)).astype(np.uint8)
    label[0, :4] = (0, 1, 2, IGNORED)
    return label


def picture(index: int) -> Image.Image:
    pixels = np.random.default_rng([1, index]).integers(0, 256, (10 + index, 14, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def shown(label: np.ndarray) -> np.ndarray:
    """Map training ids to the colours of the class file; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[:3] = COLOURS
    return table[label]


def save(image: Image.Image, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write(root: Path, count: int = 4, *, image="images/{}.png", mask="masks/{}.png", classes=PLAIN, names=None) -> Path:
    """Write `count` pairs; "{}" in the file names is replaced by a0, a1 ... or the given names."""
    for index, name in enumerate(names or [f"a{index}" for index in range(count)]):
        save(picture(index), root / image.format(name))
        save(Image.fromarray(ids(index)), root / mask.format(name))
    (root / "classes.txt").write_text(classes)
    return root


def prepare(source: Path, data_dir: Path, **layout) -> builders.FolderBuilder:
    dataset = builders.describe_folder(source, FolderLayout(**layout))
    return builders.prepare(dataset, data_dir, source)


def examples_of(builder) -> dict[str, dict]:
    """Return id -> example, of all splits."""
    splits = [builders.records(builder, split) for split in builder.info.splits]
    return {example["id"]: example for records in splits for example in examples(records, decode=decode3)}


def split_names(source: Path, **layout) -> dict[str, list[str]]:
    found, _ = find_pairs(Source(source), FolderLayout(**layout))
    return {split: [pair.name for pair in pairs] for split, pairs in found.items()}


def assert_one_sentence(error: UserError, *named: str) -> None:
    assert all(name in str(error) for name in named), str(error)
    assert "\n" not in str(error) and error.exit_status == 2


# --- what is accepted -------------------------------------------------------------------------------------------------


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


def test_check_data_lists_every_file_without_its_partner_and_every_unknown_value(tmp_path):
    source = write(tmp_path / "own", 6)
    for name in ("masks/a1.png", "masks/a4.png", "images/a2.png"):
        (source / name).unlink()
    save(Image.fromarray(np.full_like(ids(0), 9)), source / "masks/a0.png")
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    assert {(finding.kind, finding.where) for finding in examined.unpaired} == {
        ("image_without_label", "images/a1.png"),
        ("image_without_label", "images/a4.png"),
        ("label_without_image", "masks/a2.png"),
    }
    [unknown] = [finding for seen in scan(examined, 2) for finding in seen.findings]
    assert unknown.where == "masks/a0.png" and "9" in unknown.detail


def paletted(label: np.ndarray, palette: list[int]) -> Image.Image:
    image = Image.fromarray(label)
    image.putpalette(palette)
    return image


def with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(255)
    return image


SHUFFLED = np.array([2, 0, 1], np.uint8)  # the order in which a tool that shrinks PNGs might number the colours
VOC_LIKE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [224] * 759
CLASS_PALETTE = [*COLOURS[0], *COLOURS[1], *COLOURS[2]] + [0] * 759
ENCODINGS = {
    "indices": (PLAIN, lambda label: Image.fromarray(label), {}),
    "indices of 16 bits": (PLAIN, lambda label: Image.fromarray(label.astype(np.uint16)), {}),
    "indices with an opaque alpha": (PLAIN, lambda label: with_alpha(Image.fromarray(label)), {}),
    "a palette": (PLAIN, lambda label: paletted(label, VOC_LIKE), {}),
    "a palette of the classes' colours": (COLOURED, lambda label: paletted(label, CLASS_PALETTE), {}),
    "a palette of other colours than the classes'": (COLOURED, lambda label: paletted(label, VOC_LIKE), {}),
    "colours": (COLOURED, lambda label: Image.fromarray(shown(label)), {}),
    "colours with an opaque alpha": (COLOURED, lambda label: with_alpha(Image.fromarray(shown(label))), {}),
    "colours in a shuffled palette": (
        COLOURED,
        lambda label: paletted(
            np.where(label == IGNORED, 3, SHUFFLED[label % 3]).astype(np.uint8),
            [*COLOURS[1], *COLOURS[2], *COLOURS[0]] + [0] * 759,
        ),
        {"mask_format": "colours"},
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_of_a_mask_has_the_same_training_ids(encoding, tmp_path):
    classes, encode, layout = ENCODINGS[encoding]
    save(encode(ids(0)), tmp_path / "mask.png")
    mask = Image.open(tmp_path / "mask.png")
    mask_format = layout.get("mask_format") or mask_reading.format_of(mask)
    table = parse(classes, "classes.txt")
    found = mask_reading.training_ids(mask, table, mask_format, "mask.png", assumed=not layout)
    assert found.dtype == np.uint8 and np.array_equal(found, ids(0))


def test_masks_of_one_bit_are_two_classes(tmp_path):
    save(Image.fromarray(ids(0) == 1), tmp_path / "mask.png")
    mask = Image.open(tmp_path / "mask.png")
    assert mask.mode == "1"
    found = mask_reading.training_ids(mask, parse("no\nyes", "c.txt"), "indices", "mask.png", assumed=True)
    assert np.array_equal(found, ids(0) == 1)


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


def test_the_mask_format_is_that_of_the_first_mask(tmp_path):
    source = write(tmp_path / "own")
    in_colours(source)
    found = examples_of(prepare(source, tmp_path / "data"))
    assert all(np.array_equal(found[f"a{index}"]["label"], ids(index)) for index in range(4))


def test_images_that_are_neither_jpeg_nor_png_become_png(tmp_path):
    builder = prepare(write(tmp_path / "own", image="images/{}.bmp"), tmp_path / "data")
    assert all(record["image"].startswith(b"\x89PNG") for record in builders.records(builder, "train"))
    found = examples_of(builder)
    assert all(np.array_equal(found[f"a{index}"]["image"], np.asarray(picture(index))) for index in range(4))


def test_cmyk_jpegs_become_rgb(tmp_path):
    source = write(tmp_path / "own")
    (source / IMAGE).unlink()
    Image.new("CMYK", (14, 11), (0, 255, 255, 0)).save(source / "images/a1.jpg")
    found = examples_of(prepare(source, tmp_path / "data"))["a1"]["image"]
    assert np.abs(found.astype(int) - (255, 0, 0)).max() < 8, "red"


@pytest.mark.parametrize("outer", [Path(), Path("mine")])
def test_a_zip_archive_is_read_in_place(outer, tmp_path):
    source = write(tmp_path / "own")
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for path in source.rglob("*.*"):
            archive.write(path, outer / path.relative_to(source))
    shutil.rmtree(source)
    found = examples_of(prepare(tmp_path / "own.zip", tmp_path / "data"))
    assert np.array_equal(found[str(outer / "a2")]["label"], ids(2)) and len(found) == 4


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [("images/{}.png", "masks/{}.png"), ("{}.png", "{}.png")])
def test_folders_named_as_splits_are_the_splits(files, tmp_path):
    names = ["train/x", "train/y", "validation/x", "test/z"]
    if files[0].startswith("{}"):  # train/images/x.png
        for index, name in enumerate(names):
            split, stem = name.split("/")
            save(picture(index), tmp_path / split / "images" / f"{stem}.png")
            save(Image.fromarray(ids(index)), tmp_path / split / "masks" / f"{stem}.png")
    else:
        write(tmp_path, names=names)
    assert split_names(tmp_path) == {"train": ["train/x", "train/y"], "val": ["validation/x"], "test": ["test/z"]}


def test_without_a_val_folder_val_is_drawn_from_train(tmp_path):
    write(tmp_path, names=[*(f"train/{index}" for index in range(6)), "test/a", "test/b"])
    found = split_names(tmp_path, val_fraction=0.5)
    assert found["test"] == ["test/a", "test/b"]
    assert {len(found["train"]) + len(found["val"])} == {6} and found["val"]


def test_a_folder_named_train_among_others_is_not_a_split(tmp_path):
    """Images in folders named after trains and cars, not splits."""
    write(tmp_path, names=["train/x", "car/x", "car/y"])
    found = split_names(tmp_path)
    assert sorted(found["train"] + found["val"]) == ["car/x", "car/y", "train/x"]


def csv_of(names: list[str], tmp_path: Path) -> Path:
    """Write a source whose pairs are listed in a CSV file and never opened."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "pairs.csv").write_text("image,mask\n" + "".join(f"{name}.png,{name}.png\n" for name in names))
    return tmp_path


def test_the_drawn_split_stays_when_files_are_added_and_has_its_fraction(tmp_path):
    names = [f"n{index}" for index in range(800)]
    some, all_ = (
        split_names(csv_of(part, tmp_path / str(len(part))), pairs="pairs.csv", val_fraction=0.2)
        for part in (names[::-2], names)
    )
    assert set(some["val"]) == set(all_["val"]) & set(names[::-2])
    assert 0.15 < len(all_["val"]) / 800 < 0.25
    assert not set(all_["val"]) & set(all_["train"]) and set(all_["val"]) | set(all_["train"]) == set(names)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_neither_drawn_split_is_empty(fraction, tmp_path):
    for count in (2, 3, 5):
        found = split_names(
            csv_of([f"n{i}" for i in range(count)], tmp_path / str(count)), pairs="pairs.csv", val_fraction=fraction
        )
        assert found["train"] and found["val"]


def test_a_csv_may_name_the_splits(tmp_path):
    write(tmp_path, image="x/{}.png", mask="y/{}.png")
    rows = ["\ufeffmask, image, split"]
    rows += [
        f"y/a{index}.png, x/a{index}.png, {split}" for index, split in enumerate(["val", "train", "train", "test"])
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
    found = split_names(tmp_path, pairs="pairs.csv")
    assert found == {"train": ["x/a1", "x/a2"], "val": ["x/a0"], "test": ["x/a3"]}


# --- class files ------------------------------------------------------------------------------------------------------

BY_PLACE = {0: 0, 1: 1, 2: 2, 255: 255}
FOUR_IN_YAML = "{{name: road, value: 0}}, {{name: sky, value: 1}}, {{name: tree, value: 2}}, {{name: {}, value: 255}}"
CLASS_FILES = {
    "names": ("c.txt", "# mine\nroad\n\n sky \ntree", BY_PLACE),
    "names with Windows line ends": ("c.txt", "road\r\nsky\r\ntree\r\n", BY_PLACE),
    "values": ("c.txt", "7: road\n8 sky\n11=tree", {7: 0, 8: 1, 11: 2, 255: 255}),
    "a first line to ignore": ("c.txt", "ignore\nroad\nsky\ntree", {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}),
    "255 as a class": ("c.txt", "0: road\n1: sky\n255: tree", {0: 0, 1: 1, 255: 2}),
    "255 ignored in capitals": ("c.txt", "0: road\n1: sky\n2: tree\n255: Ignore", BY_PLACE),
    "255 as void": ("c.txt", "0: road\n1: sky\n2: tree\n255: VOID", BY_PLACE),
    "255 unlabelled": ("c.yaml", "classes: [" + FOUR_IN_YAML.format("Unlabelled") + "]", BY_PLACE),
    "ignored in any place": ("c.txt", "Ignored\nroad\nsky\ntree", {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}),
    "-1 to ignore": ("c.txt", "0: road\n1: sky\n2: tree\n-1: ignore", {**BY_PLACE, -1: 255}),
    "-1 to ignore in YAML": ("c.yaml", "classes: [road, sky, tree]\nignore: -1", {**BY_PLACE, -1: 255}),
    "-1 of 16 bits": ("c.txt", "0: road\n1: sky\n2: tree\n65535: unlabeled", {**BY_PLACE, 65535: 255}),
    "the first line of labelme": ("c.txt", "__ignore__\nroad\nsky\ntree", {**BY_PLACE, -1: 255}),
    "the first line of labelme in YAML": ("c.yaml", "[__ignore__, road, sky, tree]", {**BY_PLACE, -1: 255}),
    "quotes": ("c.txt", '"road"\n\'sky\'\n" tree "', BY_PLACE),
    "YAML that merges entries": (
        "c.yaml",
        "classes: [&first {name: road, value: 0}, {<<: *first, name: sky, value: 1}, {name: tree, value: 2}]",
        BY_PLACE,
    ),
    "a YAML list": ("c.yaml", "- road\n- sky\n- tree", BY_PLACE),
    "YAML with values and ignored ones": (
        "c.yml",
        "classes: [{name: road, value: 7}, {name: sky, value: 8}, {name: tree, value: 9}]\nignore: [0, 1]",
        {7: 0, 8: 1, 9: 2, 0: 255, 1: 255, 255: 255},
    ),
    "YAML that maps old to new labels": (
        "c.yaml",
        "classes: [road, sky, tree]\nmap: {0: ignore, 4: road, 5: 0, 6: sky, 7: tree, 9: 255}",
        {0: 255, 4: 0, 5: 0, 6: 1, 7: 2, 9: 255, 255: 255},
    ),
}


@pytest.mark.parametrize("name", CLASS_FILES)
def test_a_class_file_maps_raw_values_to_classes(name):
    where, text, values = CLASS_FILES[name]
    table = parse(text, where)
    assert (table.names, table.values, table.colours) == (NAMES, values, {})


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("c.txt", "road 128 64 128\nsky #4682b4\ntree,107,142,35\nignore 0 0 0"),
        ("c.txt", "128 64 128 road\n#4682b4\tsky\n107, 142, 35, tree\n0 0 0 ignore"),
        (
            "c.yaml",
            "classes: [{name: road, colour: [128, 64, 128]}, {name: sky, color: '#4682B4'}, "
            "{name: tree, colour: '107 142 35'}]\nignore: '#000000'",
        ),
    ],
)
def test_every_spelling_of_colours_is_read(where, text):
    table = parse(text, where)
    assert (table.names, table.palette) == (NAMES, COLOURS)
    assert table.colours == {**dict(zip(COLOURS, range(3), strict=True)), (0, 0, 0): 255}


def test_colours_can_be_mapped():
    classes = "classes: [{name: road, colour: '#010101'}, {name: sky, colour: '#020202'}]"
    table = parse(classes + "\nmap: {'#030303': sky, '4 4 4': ignore}", "c.yaml")
    assert table.colours == {(1, 1, 1): 0, (2, 2, 2): 1, (3, 3, 3): 1, (4, 4, 4): 255}


def test_names_can_have_several_words():
    assert parse("traffic light\nTür\n(other)", "c.txt").names == ("traffic light", "Tür", "(other)")


def test_names_that_start_with_a_digit_are_written_in_quotes():
    names = ("2-wheeler", "3D sign", "sky")
    assert parse("\"2-wheeler\"\n'3D sign'\nsky", "c.txt").names == names
    assert parse("7: \"2-wheeler\"\n8: '3D sign'\n9: sky", "c.txt").values == {7: 0, 8: 1, 9: 2, 255: 255}
    assert parse("\"2-wheeler\" 1 2 3\n'3D sign' #040506\nsky 7 8 9", "c.txt").palette[1] == (4, 5, 6)


@pytest.mark.parametrize("name", ["void", "unlabeled", "background", "Void"])
def test_what_may_be_a_class_is_one_unless_its_value_marks_pixels_without_a_class(name):
    assert parse(f"0: {name}\n1: road\n2: sky", "c.txt").names == (name, "road", "sky")
    assert parse(f"{name}\nroad\nsky", "c.txt").names == (name, "road", "sky")


def test_a_foreground_of_255_stays_a_class():
    assert parse("0: background\n255: crack", "c.txt").values == {0: 0, 255: 1}


def test_names_of_classes_are_the_same_in_every_unicode_form():
    assert parse("cafe\u0301\nroad", "c.txt").names == parse("caf\u00e9\nroad", "c.txt").names


def test_default_colours_differ_and_are_not_black():
    palette = parse("\n".join(f"class{index}" for index in range(255)), "c.txt").palette
    assert len({*palette, (0, 0, 0)}) == 256


BAD_CLASS_FILES = {
    "empty": ("c.txt", "\n# nothing\n", ["no class"]),
    "one class": ("c.txt", "crack", ["crack", "background"]),
    "a name twice": ("c.txt", "road\nsky\nroad", ["'road'", "more than once"]),
    "a name in two cases": ("c.txt", "road\nsky\nRoad", ["'road' and 'Road'", "case"]),
    "a name with a digit first": ("c.txt", "road\n2-wheeler", ["line 2", "'2-wheeler'", "quotes"]),
    "a value of more bits than masks have": ("c.txt", f"{2**64}: road\n1: sky", ["line 1", "32 bits"]),
    "a key twice": ("c.yaml", "classes: [road, sky]\nmap: {7: road, 7: sky}", ["7 is given twice"]),
    "a section twice": ("c.yaml", "classes: [road, sky]\nclasses: [tree, sky]", ["'classes' is given twice"]),
    "a date that does not exist": ("c.yaml", "classes: [road, 2024-02-31]", ["not valid YAML"]),
    "YAML that is nested too deeply": ("c.yaml", "classes: " + "[" * 1500, ["not valid YAML"]),
    "a number for a name": ("c.txt", "road\n17\nsky", ["line 2", "'17'"]),
    "some values": ("c.txt", "0: road\nsky", ["value", "'sky'"]),
    "some colours": ("c.txt", "road 1 2 3\nsky", ["colour", "'sky'"]),
    "a value twice": ("c.txt", "3: road\n3: sky", ["value 3", "two classes"]),
    "a colour twice": ("c.txt", "road 1 2 3\nsky 1 2 3", ["(1, 2, 3)", "two classes"]),
    "a colour out of range": ("c.txt", "road 1 2 300\nsky 1 2 3", ["line 1", "255"]),
    "too many": ("c.txt", "\n".join(f"c{i}" for i in range(256)), ["256 classes"]),
    "not YAML": ("c.yaml", "classes: [road", ["not valid YAML"]),
    "YAML without classes": ("c.yaml", "names: [road, sky]", ["classes"]),
    "an empty YAML": ("c.yaml", "", ["classes"]),
    "a YAML name that is not text": ("c.yaml", "classes: [yes, no]", ["class 0", "quotes"]),
    "an unknown YAML field": ("c.yaml", "classes: [{name: a, id: 3}, {name: b, id: 4}]", ["'id'", "value"]),
    "a YAML value that is not a number": (
        "c.yaml",
        "classes: [{name: a, value: x}, {name: b, value: 4}]",
        ["class 0", "'x'"],
    ),
    "a map to no class": ("c.yaml", "classes: [a, b]\nmap: {3: c}", ["'c'"]),
    "a map to no place": ("c.yaml", "classes: [a, b]\nmap: {3: 2}", ["class 2"]),
    "a map that is a list": ("c.yaml", "classes: [a, b]\nmap: [3, 2]", ["'map'"]),
}


@pytest.mark.parametrize("name", BAD_CLASS_FILES)
def test_a_bad_class_file_is_refused_in_one_line(name):
    where, text, named = BAD_CLASS_FILES[name]
    with pytest.raises(UserError) as caught:
        parse(text, where)
    assert_one_sentence(caught.value, where, *named)


# --- faulty folders ---------------------------------------------------------------------------------------------------

MASK, IMAGE = "masks/a1.png", "images/a1.png"


def repaint(pixel: object, encode=Image.fromarray):
    """Put a pixel into a mask, at x=5, y=3."""

    def damage(root: Path) -> None:
        label = encode(ids(1))
        label.putpixel((5, 3), pixel)
        label.save(root / MASK)

    return damage


def in_colours(root: Path) -> None:
    (root / "classes.txt").write_text(COLOURED)
    for index in range(4):
        save(Image.fromarray(shown(ids(index))), root / f"masks/a{index}.png")


def coloured(label: np.ndarray) -> Image.Image:
    return Image.fromarray(shown(label))


def transparent(label: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([shown(label), np.full(label.shape, 255, np.uint8)]))


def csv_text(text: str):
    return lambda root: (root / "pairs.csv").write_text(text)


CSV = {"pairs": "pairs.csv"}
# case -> (change to the folder, layout, what the error message must name)
BROKEN = {
    "unknown value": (repaint(7), {}, [MASK, "value 7", "x=5, y=3", "classes.txt"]),
    "unknown value of 16 bits": (
        lambda root: Image.fromarray(np.full((11, 14), 4000, np.uint16)).save(root / MASK),
        {},
        [MASK, "4000"],
    ),
    "unknown colour": (
        lambda root: (in_colours(root), repaint((9, 8, 7), coloured)(root)),
        {},
        [MASK, "(9, 8, 7)", "x=5, y=3", "classes.txt"],
    ),
    "colours without a colour table": (
        lambda root: coloured(ids(1)).save(root / "masks/a1.png") or coloured(ids(0)).save(root / "masks/a0.png"),
        {"val_fraction": 0.001},
        ["RGB", "indices"],
    ),
    "colours where indices are said": (in_colours, {"mask_format": "indices"}, ["RGB", "indices"]),
    "one mask of indices among colours": (
        lambda root: (in_colours(root), [Image.fromarray(ids(i)).save(root / f"masks/a{i}.png") for i in (2,)]),
        {},
        ["masks/a", "mask_format"],
    ),
    "a shuffled palette": (
        lambda root: (
            (root / "classes.txt").write_text(COLOURED),
            paletted(SHUFFLED[ids(1) % 3], [*COLOURS[1], *COLOURS[2], *COLOURS[0]] + [0] * 759).save(root / MASK),
        ),
        {},
        [MASK, "mask_format"],
    ),
    "a transparent pixel": (
        lambda root: (in_colours(root), repaint((128, 64, 128, 0), transparent)(root)),
        {},
        [MASK, "transparent", "x=5, y=3"],
    ),
    "a JPEG mask": (
        lambda root: ((root / MASK).unlink(), Image.fromarray(ids(1)).save(root / "masks/a1.jpg")),
        {},
        ["masks/a1.jpg", "JPEG"],
    ),
    "a mask in CMYK": (
        lambda root: ((root / MASK).unlink(), coloured(ids(1)).convert("CMYK").save(root / "masks/a1.tif")),
        {},
        ["masks/a1.tif", "CMYK"],
    ),
    "another size": (lambda root: Image.fromarray(ids(2)).save(root / MASK), {}, [MASK, "14x12", "14x11"]),
    "image without mask": (lambda root: (root / MASK).unlink(), {}, [IMAGE, "no mask", "mask_name"]),
    "mask without image": (lambda root: (root / IMAGE).unlink(), {}, [MASK, "no image"]),
    "two images of one name": (lambda root: picture(1).save(root / "images/a1.jpg"), {}, ["images/a1.jpg", IMAGE]),
    "image cut off": (lambda root: (root / IMAGE).write_bytes((root / IMAGE).read_bytes()[:200]), {}, [IMAGE]),
    "mask cut off": (lambda root: (root / MASK).write_bytes((root / MASK).read_bytes()[:70]), {}, [MASK]),
    "an image of negative values": (
        lambda root: (
            (root / IMAGE).unlink(),
            Image.fromarray(np.full((11, 14), -1, np.int32)).save(root / "images/a1.tif"),
        ),
        {},
        ["images/a1.tif", "-1", "value_range"],
    ),
    "no images folder": (lambda root: shutil.rmtree(root / "images"), {}, ["'images'", "masks", "config.data.source"]),
    "no masks folder": (lambda root: (root / "masks").rename(root / "gt"), {}, ["'masks'", "gt", "folder.masks"]),
    "no images in it": (
        lambda root: [path.rename(path.with_suffix(".psd")) for path in (root / "images").iterdir()],
        {},
        ["images", ".png"],
    ),
    "one image only": (
        lambda root: [(root / f"{kind}/a{i}.png").unlink() for i in (1, 2, 3) for kind in ("images", "masks")],
        {},
        ["one image"],
    ),
    "a pattern that nothing is named like": (
        lambda root: None,
        {"mask_name": "*_gt"},
        ["mask_name", "*_gt", "masks/a0"],
    ),
    "one folder without a pattern": (lambda root: None, {"masks": "images"}, ["mask_name"]),
    "no class file": (lambda root: (root / "classes.txt").unlink(), {}, ["classes.txt", "config.data.folder.classes"]),
    "two class files": (lambda root: (root / "classes.yaml").touch(), {}, ["classes.txt", "classes.yaml"]),
    "an empty class file": (lambda root: (root / "classes.txt").write_text(""), {}, ["classes.txt", "no class"]),
    "a class file that is not there": (lambda root: None, {"classes": "mine.txt"}, ["mine.txt", "folder.classes"]),
    "a class file that is not text": (lambda root: (root / "classes.txt").write_bytes(b"\xff\xfe"), {}, ["UTF-8"]),
    "a CSV that is not there": (lambda root: None, CSV, ["pairs.csv", "folder.pairs"]),
    "a CSV without its columns": (csv_text("image,label\na,b"), CSV, ["pairs.csv", "'mask'"]),
    "an empty CSV": (csv_text(""), CSV, ["pairs.csv", "'image'"]),
    "a CSV without lines": (csv_text("image,mask\n"), CSV, ["pairs.csv", "no pairs"]),
    "a CSV with a missing file": (csv_text(f"image,mask\n{IMAGE},masks/b.png"), CSV, ["line 2", "masks/b.png"]),
    "a CSV with a missing cell": (csv_text(f"image,mask\n{IMAGE}"), CSV, ["line 2", "mask"]),
    "a CSV with an unknown split": (csv_text(f"image,mask,split\n{IMAGE},{MASK},extra"), CSV, ["line 2", "'extra'"]),
    "a CSV with an image twice": (csv_text(f"image,mask\n{IMAGE},{MASK}\n{IMAGE},{MASK}"), CSV, ["line 3", "line 2"]),
    "a CSV with nothing to train on": (csv_text(f"image,mask,split\n{IMAGE},{MASK},val"), CSV, ["only val", "train"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_folder_is_refused_in_one_line_and_nothing_is_written(name, tmp_path):
    damage, layout, named = BROKEN[name]
    source = write(tmp_path / "own")
    damage(source)
    with pytest.raises(UserError) as caught:
        prepare(source, tmp_path / "data", **layout)
    assert_one_sentence(caught.value, *named)
    assert not list(tmp_path.rglob("*.array_record*"))


def test_a_missing_or_unset_source_is_named(tmp_path):
    for source, named in (("", "is not set"), (tmp_path / "nowhere", "nowhere")):
        with pytest.raises(UserError) as caught:
            builders.describe_folder(source, FolderLayout())
        assert_one_sentence(caught.value, "config.data.source", named)


def test_images_outside_train_and_val_are_not_dropped_silently(tmp_path):
    write(tmp_path, names=["train/x", "val/x", "extra/x"])
    with pytest.raises(UserError, match="extra/x"):
        split_names(tmp_path)


def test_255_is_ignored_except_in_files_of_two_classes():
    mask = Image.fromarray(np.array([[0, 255]], np.uint8))
    read = partial(mask_reading.training_ids, mask, mask_format="indices", where="m.png", assumed=True)
    with pytest.raises(UserError, match=r"255: NAME.*255: ignore"):
        read(table=parse("no\ncrack", "c.txt"))
    assert read(table=parse("0: no\n255: crack", "c.txt")).tolist() == [[0, 1]]
    assert read(table=parse("0: no\n1: crack\n255: ignore", "c.txt")).tolist() == [[0, 255]]
    assert read(table=parse(PLAIN, "c.txt")).tolist() == [[0, 255]]


def test_minus_one_in_a_mask_can_be_ignored(tmp_path):
    Image.fromarray(np.array([[0, -1, 2]], np.int32)).save(tmp_path / "mask.tif")
    read = partial(mask_reading.training_ids, mask_format="indices", where="mask.tif", assumed=True)
    table = parse("0: road\n1: sky\n2: tree\n-1: ignore", "c.txt")
    assert read(Image.open(tmp_path / "mask.tif"), table=table).tolist() == [[0, 255, 2]]


# --- pairs that cannot be read ----------------------------------------------------------------------------------------


def damaged(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:70])
    return root


def prepare_and_skip(source: Path, data_dir: Path) -> builders.FolderBuilder:
    dataset = builders.describe_folder(source, FolderLayout())
    return builders.prepare(dataset, data_dir, source, skip_unreadable=True)


def test_faulty_pairs_can_be_skipped_with_a_line_each_and_their_number(tmp_path, capsys):
    names = [*(f"train/{index}" for index in range(6)), "val/v", "val/w"]
    source = damaged(
        write(tmp_path / "own", names=names), "masks/train/0.png", "images/train/2.png", "images/val/w.png"
    )
    builder = prepare_and_skip(source, tmp_path / "data")
    assert set(examples_of(builder)) == {"train/1", "train/3", "train/4", "train/5", "val/v"}
    lines = capsys.readouterr().err.splitlines()
    skipped = [line for line in lines if line.startswith("Skipped: ")]
    assert len(skipped) == 3 and all(any(name in line for line in skipped) for name in ("0.png", "2.png", "w.png"))
    assert "Note: 2 of 6 pairs of train were skipped, each is named above" in lines
    assert "Note: 1 of 2 pairs of val were skipped, each is named above" in lines
    prepare_and_skip(source, tmp_path / "data")
    assert "Note" not in "".join(capsys.readouterr()), "the skipped pairs are not missed later"


def test_faulty_pairs_are_not_skipped_by_default(tmp_path):
    source = damaged(write(tmp_path / "own"), IMAGE)
    with pytest.raises(UserError, match=IMAGE):
        prepare(source, tmp_path / "data")


@pytest.mark.parametrize("faulty", [["images/val/v.png"], ["masks/train/x.png", "masks/train/y.png"]])
def test_a_split_of_which_every_pair_is_faulty_is_refused(faulty, tmp_path):
    source = damaged(write(tmp_path / "own", names=["train/x", "train/y", "val/v"]), *faulty)
    with pytest.raises(UserError) as caught:
        prepare_and_skip(source, tmp_path / "data")
    assert_one_sentence(caught.value, faulty[-1])
    assert not list(tmp_path.rglob("*.array_record*"))


# --- EXIF orientation -------------------------------------------------------------------------------------------------


def with_orientation(source: Path, orientation: int, mask: np.ndarray, size=(24, 16)) -> Path:
    """Make a1 a photograph whose stored pixels have a bright left edge; returns the folder."""
    pixels = np.zeros((*size[::-1], 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (source / IMAGE).unlink()
    Image.fromarray(pixels).save(source / "images/a1.jpg", exif=exif, quality=95)
    Image.fromarray(mask).save(source / MASK)
    return source


def left_is_bright(image: np.ndarray) -> bool:
    return image[:, :8].mean() > 240 and image[:, 8:].mean() < 15


def test_an_image_is_turned_if_its_mask_is(tmp_path, capfd):
    source = with_orientation(write(tmp_path / "own"), 6, np.ones((24, 16), np.uint8))
    example = examples_of(prepare(source, tmp_path / "data"))["a1"]
    # 6: viewers turn the image clockwise, so that its left edge is at the top.
    assert example["image"].shape == (24, 16, 3) and left_is_bright(np.swapaxes(example["image"], 0, 1))
    assert "1 images" in capfd.readouterr().err


def test_an_image_is_not_turned_if_its_mask_fits_the_stored_pixels(tmp_path, capfd):
    source = with_orientation(write(tmp_path / "own"), 6, np.ones((16, 24), np.uint8))
    assert left_is_bright(examples_of(prepare(source, tmp_path / "data"))["a1"]["image"])
    assert "left as they are stored" in capfd.readouterr().err


@pytest.mark.parametrize(("orientation", "size"), [(3, (24, 16)), (6, (16, 16))])
def test_an_ambiguous_orientation_must_be_configured(orientation, size, tmp_path):
    source = with_orientation(write(tmp_path / "own"), orientation, np.ones(size[::-1], np.uint8), size)
    with pytest.raises(UserError) as caught:
        prepare(source, tmp_path / "data")
    assert_one_sentence(caught.value, "images/a1.jpg", "config.data.folder.orientation")
    stored, turned = (
        examples_of(prepare(source, tmp_path / choice, orientation=choice))["a1"]["image"]
        for choice in ("stored", "turned")
    )
    assert left_is_bright(stored) and not left_is_bright(turned)


# --- existing records -------------------------------------------------------------------------------------------------


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_preparing_twice_writes_once(tmp_path, capsys):
    source = write(tmp_path / "own")
    prepare(source, tmp_path / "data")
    before = stamps(tmp_path / "data")
    capsys.readouterr()
    assert len(examples_of(prepare(source, tmp_path / "data"))) == 4
    assert stamps(tmp_path / "data") == before and not capsys.readouterr().out


def test_folders_of_the_same_name_are_kept_apart(tmp_path):
    ours, theirs = write(tmp_path / "a/own"), write(tmp_path / "b/own", 3)
    assert len(examples_of(prepare(ours, tmp_path / "data"))) == 4
    assert len(examples_of(prepare(theirs, tmp_path / "data"))) == 3
    assert len(examples_of(prepare(ours, tmp_path / "data"))) == 4


CHANGES = {
    "another order of classes": (lambda root: (root / "classes.txt").write_text("sky\nroad\ntree"), {}, "classes"),
    "another value": (lambda root: (root / "classes.txt").write_text("1: road\n0: sky\n2: tree"), {}, "mask values"),
    "colours": (lambda root: (root / "classes.txt").write_text(COLOURED), {}, "mask colours"),
    "another fraction": (lambda root: None, {"val_fraction": 0.4}, "val_fraction"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_images_read_in_another_way_are_prepared_beside_and_both_are_found_again(name, tmp_path, capsys):
    change, layout, named = CHANGES[name]
    source, data = write(tmp_path / "own"), tmp_path / "data"
    first = prepare(source, data)
    before, was = stamps(data), (source / "classes.txt").read_text()
    change(source)
    capsys.readouterr()
    second = prepare(source, data, **layout)
    [note] = [line for line in capsys.readouterr().out.splitlines() if "the same images" in line]
    folder = Path(first.data_dir).parent
    assert note.startswith(f"Note: {folder.parent} also holds the same images as {folder.name} (other ")
    assert named in note and note.endswith("): delete it if no run needs it")
    both = stamps(data)
    assert first.data_dir != second.data_dir and before.items() <= both.items()
    assert prepare(source, data, **layout).data_dir == second.data_dir
    (source / "classes.txt").write_text(was)
    assert prepare(source, data).data_dir == first.data_dir and stamps(data) == both


def test_one_note_names_all_folders_of_the_same_images_and_what_differs_in_words(tmp_path, capsys):
    source, data = write(tmp_path / "own"), tmp_path / "data"
    first = prepare(source, data)
    second = prepare(source, data, val_fraction=0.4)
    (source / "classes.txt").unlink()
    (source / "classes.yaml").write_text("classes: [road, sky, tree]\nmap: {0: road, 1: sky, 2: tree, '*': tree}")
    capsys.readouterr()
    prepare(source, data)
    [note] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: ")]
    for builder, differs in ((first, "(other class of '*',"), (second, "(other val_fraction, class of '*',")):
        assert f"{Path(builder.data_dir).parent.name} {differs}" in note
    assert note.endswith("delete those that no run needs") and "rest" not in note


def test_check_data_keeps_the_results_of_each_task_on_the_same_images(tmp_path, capsys):
    source = write(tmp_path / "own")
    config = default.get_config()
    fields = {"data.name": "folder", "data.num_classes": 0, "data.source": str(source), "data.dir": str(tmp_path)}
    config.update_from_flattened_dict(fields)
    check_data(config, tmp_path / "run")
    (source / "classes.txt").write_text("sky\nroad\nVoid\n")
    check_data(config.copy_and_resolve_references(), tmp_path / "run")
    printed = capsys.readouterr().out
    assert printed.count("WARNING: class whose name says") == 1 and "Note: " not in printed
    found = [json.loads(path.read_text()) for path in (tmp_path / "run/check_data").glob("own-*/report.json")]
    assert {tuple(report["classes"]) for report in found} == {NAMES, ("sky", "road", "Void")}


def test_records_where_an_earlier_version_put_them_are_used_if_they_fit(tmp_path):
    source, data = write(tmp_path / "own"), tmp_path / "data"
    new = Path(prepare(source, data).data_dir).parent
    old = new.with_name(f"own-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}")
    new.rename(old)
    before = stamps(data)
    builder = prepare(source, data)
    assert Path(builder.data_dir).parent == old and len(examples_of(builder)) == 4 and stamps(data) == before
    records = pickle.loads(pickle.dumps(builders.records(builder, "train")))
    assert records[0] == builders.records(builder, "train")[0], "a worker process reads the same folder"
    prepare(source, data, val_fraction=0.4)
    assert before.items() <= stamps(data).items() and len(list((data / "folder").iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"settings": 1}', b"[" * 100_000])
def test_damaged_records_are_named_alone_and_stop_neither_check_data_nor_another_class_file(content, tmp_path):
    source, data = write(tmp_path / "own"), tmp_path / "data"
    builder = prepare(source, data)
    for name in ("metadata.json", "dataset_info.json"):
        (Path(builder.data_dir) / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        builders.records(prepare(source, data), "train")
    assert_one_sentence(caught.value, f"delete {Path(builder.data_dir).parent} and run --mode=prepare again")
    config = default.get_config()
    fields = {"data.name": "folder", "data.num_classes": 0, "data.source": str(source), "data.dir": str(data)}
    config.update_from_flattened_dict(fields)
    before = stamps(data)
    check_data(config, tmp_path / "run")
    assert stamps(data) == before
    (source / "classes.txt").write_text(COLOURED)
    assert len(examples_of(prepare(source, data))) == 4


def test_an_abandoned_preparation_of_another_class_file_is_removed(tmp_path):
    source, data = write(tmp_path / "own"), tmp_path / "data"
    abandoned, live = (data / "folder" / "own-12345678" / f"incomplete.{name}_1.0.0" for name in ("ABCDEF", "GHIJKL"))
    abandoned.mkdir(parents=True)
    live.mkdir()
    os.utime(abandoned, (0, 0))
    prepare(source, data)
    assert live.exists() and not abandoned.exists()


def test_added_images_are_noted(tmp_path, capsys):
    source = write(tmp_path / "own")
    prepare(source, tmp_path / "data")
    write(source, 6)
    capsys.readouterr()
    assert len(examples_of(prepare(source, tmp_path / "data"))) == 4
    assert "Note" in capsys.readouterr().out
    write(source, 7)
    (source / "masks/a6.png").unlink()  # an image without a mask does not stop a run on existing records
    assert len(examples_of(prepare(source, tmp_path / "data"))) == 4


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


@pytest.mark.parametrize("rest", ["tree", "ignore"])
@pytest.mark.parametrize("stored", ["indices", "colours"])
def test_all_other_values_and_colours_become_one_class(tmp_path, stored, rest):
    source = write(tmp_path / "own")
    if stored == "colours":
        in_colours(source)
    (source / "classes.txt").unlink()
    given = "0: road, 1: sky" if stored == "indices" else "'#804080': road, '#4682b4': sky"
    (source / "classes.yaml").write_text(f"classes: [road, sky, tree]\nmap: {{{given}, '*': {rest}}}")
    builder = prepare(source, tmp_path / "data")
    found = {2: 2, 255: 255 if stored == "indices" else 2} if rest == "tree" else {2: 255, 255: 255}
    for name, example in examples_of(builder).items():
        expected = ids(int(name[1:]))
        for old, new in found.items():
            expected[ids(int(name[1:])) == old] = new
        np.testing.assert_array_equal(example["label"], expected)
    assert "all others" in builder.stored_as()[2 if rest == "tree" else 255][0]
    again = describe_prepared(json.loads(json.dumps(builder.DATASET.settings())))
    assert again.settings() == builder.DATASET.settings()


def test_a_class_whose_name_marks_pixels_without_a_class_is_noted_once(tmp_path, capfd):
    source = write(tmp_path / "own", classes="road\nsky\nVoid\n")
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    assert "Note: " not in capfd.readouterr().out, "--mode=check_data lists it among its warnings"
    findings = Census(examined, [], "train", "val").findings
    assert [finding.where for finding in findings if finding.kind == "void_class"] == ["Void"]
    builder = prepare(source, tmp_path / "data")
    assert f"Note: {source}/classes.txt has the class 'Void', which is trained" in capfd.readouterr().out
    prepare(source, tmp_path / "data")  # as every start of a run
    assert "Void" not in capfd.readouterr().out
    (source / "classes.txt").write_text("road\nsky\nignore\n")  # as the note says
    assert builders.describe_folder(source, FolderLayout()).classes == builder.DATASET.classes[:2]


# --- the number of classes --------------------------------------------------------------------------------------------


def test_num_classes_0_means_the_datasets_number(tmp_path):
    dataset = builders.describe_folder(write(tmp_path), FolderLayout())
    config = ConfigDict({"data": {"name": "folder", "num_classes": 0}, "loss": {"class_weights": ()}})
    resolve_classes(config, dataset.classes)
    assert config.data.num_classes == 3
    with pytest.raises(UserError, match=r"config\.data\.num_classes is 3: folder has 2"):
        resolve_classes(config, NAMES[:2])


# --- the whole program ------------------------------------------------------------------------------------------------


def run(source: Path, root: Path) -> subprocess.CompletedProcess:
    small = {
        "data.source": source,
        "data.dir": root / "data",
        "data.crop_size": "(32,32)",
        "system.compilation_cache": "",
        "batch_size": 2,
        "total_steps": 2,
        "model.channels": 16,
        "model.aux_channels": 8,
        "model.context_prior": False,  # less to compile
    }
    command = [sys.executable, "main.py", "--config=configs/folder.py", f"--workdir={root / 'run'}"]
    command += [f"--config.{field}={value}" for field, value in small.items()]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_users_folder_is_trained_on_with_one_command(tmp_path):
    source = write(tmp_path / "own", image="images/berlin/{}.png", mask="masks/berlin/{}_mask.png")
    result = run(source, tmp_path)
    assert result.returncode == 0, result.stderr
    evaluation = json.loads((tmp_path / "run/eval.json").read_text())
    assert tuple(evaluation["per_class"]) == NAMES and evaluation["images"] == 1
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["num_classes"] == 3
    kept = sorted(path.name for path in (tmp_path / "run/predictions/berlin").iterdir())
    assert kept == ["a2_label.png", "a2_panel.png", "a2_prediction.png"]


def test_the_report_says_what_each_mask_value_becomes_and_a_split_folder_in_an_archive_is_honoured(tmp_path):
    source = write(tmp_path / "own", names=["a0", "a1", "test/a2"], classes="0: road\n1: sky\n2: tree\n255: Ignore\n")
    with tarfile.open(tmp_path / "own.tar.gz", "w:gz") as archive:
        archive.add(source, "own")
    checked, prepared = run_all(
        [
            [
                "--config=configs/folder.py",
                f"--config.data.source={tmp_path}/own.tar.gz",
                f"--config.data.dir={tmp_path}/data",
                f"--workdir={tmp_path}/run",
                f"--mode={mode}",
            ]
            for mode in ("check_data", "prepare")
        ],
        {**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert checked.returncode == prepared.returncode == 0, checked.stderr + prepared.stderr
    rows = [" ".join(line.split()[:3]) for line in checked.stdout.splitlines() if " -> " in line]
    assert rows == ["0 -> road", "1 -> sky", "2 -> tree", "255 -> ignored"]
    assert "1 train, 1 test, 1 val" in prepared.stdout


def test_the_report_shows_the_values_and_colours_of_the_class_file(tmp_path):
    source = write(tmp_path / "own")
    in_colours(source)
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    assert [examined.stored(value) for value in (0, 1, 2, 255)] == [*(" ".join(map(str, c)) for c in COLOURS), "0 0 0"]
    many = "classes: [road, sky, tree]\nmap: {1: road, 2: road, 3: road, 4: road, 5: road, 6: sky, 7: tree, 0: ignore}"
    (source / "classes.txt").unlink()
    (source / "classes.yaml").write_text(many)
    for index in range(4):
        save(Image.fromarray(ids(index) % 4 + 4), source / f"masks/a{index}.png")
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    assert [examined.stored(value) for value in (0, 1, 2, 255)] == ["1, 2, 3, 4, ...", "6", "7", "0, 255"]


@pytest.mark.parametrize(("first", "found"), [("0 0 0", True), ("9 9 9", False)])
def test_only_a_class_of_value_0_or_black_can_be_void_by_its_thin_lines(first, found, tmp_path):
    source = write(tmp_path / "own", classes=f"edge {first}\nroad 128 64 128\n")
    for index in range(4):
        mask = np.full((*ids(index).shape, 3), COLOURS[0], np.uint8)
        mask[::8] = [int(part) for part in first.split()]
        save(Image.fromarray(mask), source / f"masks/a{index}.png")
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    findings = Census(examined, scan(examined, 1), "train", "val").findings
    details = [f"{finding.where}: {finding.detail}" for finding in findings if finding.kind == "zero_outlines"]
    start, end = "value 0 0 0: trained as edge; in 4 mask(s), such as masks/a", " are within 3 pixels of another value"
    assert len(details) == found
    assert all(text.startswith(start) and text.endswith(".png, 100 % of its pixels" + end) for text in details)


def test_a_mistake_prints_one_line_and_exits_with_2(tmp_path):
    source = write(tmp_path / "own")
    BROKEN["unknown colour"][0](source)
    result = run(source, tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "(9, 8, 7)" in line and MASK in line
    assert not (tmp_path / "run").exists() and not list(tmp_path.rglob("*.array_record*"))
