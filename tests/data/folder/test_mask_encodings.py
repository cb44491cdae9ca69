"""All common encodings of masks and images in a user's folder have the same training ids and pixels."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from users_folder import (
    COLOURED,
    COLOURS,
    IGNORED,
    IMAGE,
    PLAIN,
    SHUFFLED,
    examples_of,
    ids,
    in_colours,
    paletted,
    picture,
    prepare,
    save,
    shown,
    write,
)

from cpnet_jax.data import builders
from cpnet_jax.data.builders import masks as mask_reading
from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.data.catalog.folder import describe_prepared
from cpnet_jax.errors import UserError


def with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(255)
    return image


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
