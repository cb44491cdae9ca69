"""A faulty folder is refused in one line that names the file, and nothing is written."""

import shutil

import numpy as np
import pytest
from PIL import Image
from users_folder import (
    COLOURED,
    COLOURS,
    IMAGE,
    MASK,
    SHUFFLED,
    assert_one_sentence,
    coloured,
    ids,
    in_colours,
    paletted,
    picture,
    prepare,
    repaint,
    shown,
    write,
)

from cpnet_jax.data import builders
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.errors import UserError


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
