"""Images of more than 8 bits, turned TIFFs and palettes in a user's folder are understood alike everywhere."""

import struct
from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from png_files import grey_png, with_right_checksums

from configs import folder as folder_config
from cpnet_jax.config.check import check_config
from cpnet_jax.config.same_run import check_same_run
from cpnet_jax.data import builders
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.data.doctor import examined_data, report
from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.scan import scan
from cpnet_jax.data.doctor.sheet import contact_sheet
from cpnet_jax.data.records import decode_record
from cpnet_jax.data.stream import examples
from cpnet_jax.data.value_range import value_range_from
from cpnet_jax.errors import UserError
from cpnet_jax.inference.images import read_image
from cpnet_jax.modes.experiment import Experiment

SIZE = (16, 24)
COUNT = 3
NAMES = "road\nsky\ntree\n"
RED, GREEN = (128, 0, 0), (0, 128, 0)


def random(high: int, index: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([high, index]).integers(0, high, (*SIZE, *shape))


def label(index: int) -> np.ndarray:
    return random(3, index).astype(np.uint8)


def write(root: Path, images: list[np.ndarray], ending: str = ".png", masks: list[Image.Image] | None = None) -> Path:
    """Writes images (RGB or grey, of any type) and their masks."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(root / f"images/x{index}{ending}"), image[..., ::-1] if image.ndim == 3 else image)
        mask = masks[index] if masks else Image.fromarray(label(index))
        mask.save(root / f"masks/x{index}.png")
    (root / "classes.txt").write_text(NAMES)
    return root


def prepare(source: Path, **layout) -> builders.SegmentationBuilder:
    dataset = builders.describe_folder(source, FolderLayout(**layout))
    return builders.prepare(dataset, source.parent / "data", source)


def prepared(source: Path, **layout) -> dict[str, dict]:
    builder = prepare(source, **layout)
    decode = partial(decode_record, num_classes=3, ignore_label=255)
    records = [builders.records(builder, split) for split in builder.info.splits]
    return {example["id"]: example for split in records for example in examples(split, decode=decode)}


def check(source: Path, **layout) -> Census:
    builder = builders.make_builder(builders.describe_folder(source, FolderLayout(**layout)), source / "none", source)
    examined = examined_data.from_source(builder)
    return Census(examined, scan(examined, 2), "train", "val")


def kinds(census: Census) -> dict[str, str]:
    return {finding.kind: f"{finding.where} {finding.detail}" for finding in census.findings}


DEEP = {
    "dark colours": (".png", np.uint16, 1, 3),
    "dark greys": (".png", np.uint16, 1, None),
    "colour TIFFs": (".tif", np.uint16, 1, 3),
    "grey TIFFs": (".tif", np.uint16, 1, None),
    "32-bit integers": (".tif", np.int32, 1, None),
    "floats": (".tif", np.float32, 1, None),
}


@pytest.mark.parametrize("kind", DEEP)
def test_the_values_of_dark_images_are_scaled_by_the_range_of_the_dataset(kind, tmp_path, capsys):
    ending, dtype, _, channels = DEEP[kind]
    shape = (channels,) if channels else ()
    # One bright image shows that there are 10 bits; the others are dark and must stay so.
    images = [random(high, index, *shape).astype(dtype) for index, high in enumerate((1024, 200, 200))]
    source = write(tmp_path / "own", images, ending)
    found = prepared(source)
    assert "0 to 1023 becomes 0 to 255" in capsys.readouterr().out
    assert prepare(source).value_range == (0, 1023)
    for index, image in enumerate(images):
        expected = (image.astype(int) >> 2).astype(np.uint8)
        expected = expected if channels else np.repeat(expected[..., None], 3, axis=-1)
        assert np.array_equal(found[f"x{index}"]["image"], expected)
        path = source / f"images/x{index}{ending}"
        assert np.array_equal(read_image(path, value_range=(0, 1023)), expected)


def test_a_given_range_of_signed_values_is_used(tmp_path):
    images = [random(4000, index).astype(np.int16) - 1000 for index in range(COUNT)]
    source = write(tmp_path / "own", images, ".tif")
    with pytest.raises(UserError, match=r"negative values .*value_range"):
        prepare(source)
    found = prepared(source, value_range=(-1000, 1047))
    for index, image in enumerate(images):
        assert np.array_equal(found[f"x{index}"]["image"][..., 0], ((image + 1000) // 8).clip(max=255))
    darker = prepared(source, value_range=(-1000, 3095))
    assert np.array_equal(darker["x0"]["image"][..., 0], (images[0].astype(int) + 1000) // 16)


def test_images_of_8_bits_have_no_range(tmp_path, capsys):
    source = write(tmp_path / "own", [random(256, index, 3).astype(np.uint8) for index in range(COUNT)])
    assert prepare(source).value_range is None
    assert "more than 8 bits" not in capsys.readouterr().out


def test_the_range_is_part_of_a_run(tmp_path):
    source = write(tmp_path / "own", [random(1024, index, 3).astype(np.uint16) for index in range(COUNT)])
    config = ConfigDict(folder_config.get_config())
    config.data.source, config.data.dir, config.data.crop_size = str(source), str(tmp_path / "data"), (16, 24)
    config.batch_size = jax.device_count()
    described = Experiment(config).description()
    assert value_range_from(described["trained_on"]) == (0, 1023)
    older = {**described, "trained_on": {**described["trained_on"]}}
    del older["trained_on"]["value_range"]
    with pytest.raises(UserError, match="value_range is not recorded there"):
        check_same_run(described, older, tmp_path)


def test_check_data_shows_the_range_and_draws_by_it(tmp_path):
    source = write(tmp_path / "own", [random(1024, index, 3).astype(np.uint16) for index in range(COUNT)])
    census = check(source)
    assert "image_deep" in kinds(census) and census.faults == 0
    assert "in 3 images; 0 to 1023 becomes 0 to 255" in report.as_text(census, (8, 8))
    assert report.as_json(census)["deep_images"]["value_range"] == (0, 1023)
    assert np.asarray(contact_sheet(census)).size


def test_check_data_does_not_take_different_dark_images_for_the_same(tmp_path):
    source = write(tmp_path / "own", [random(200, index).astype(np.uint16) for index in range(COUNT)])
    assert not {"duplicate_image", "in_two_splits"} & kinds(check(source)).keys()


def test_check_data_reports_an_unknown_range(tmp_path):
    source = write(tmp_path / "own", [random(9, i).astype(np.float32) - 5 for i in range(COUNT)], ".tif")
    census = check(source)
    assert "negative values" in kinds(census)["unknown_range"] and census.faults == 1
    assert contact_sheet(census) is None
    assert check(source, value_range=(-5, 4)).faults == 0


def test_check_data_reports_values_that_are_not_finite(tmp_path):
    images = [random(99, i).astype(np.float32) for i in range(COUNT)]
    images[1][2, 3:6] = np.nan, np.inf, -np.inf
    census = check(write(tmp_path / "own", images, ".tif"))
    assert kinds(census)["image_not_finite"].endswith("x1.tif 3 of 384 values") and census.faults == 0


@pytest.mark.parametrize("given", [(1,), (5, 5), (9, 0), (0, float("inf")), ("0", "9")])
def test_a_range_that_cannot_work_is_refused(given):
    config = ConfigDict(folder_config.get_config())
    config.data.folder.value_range = given
    with pytest.raises(UserError, match="value_range"):
        check_config(config)


# --- palettes ---------------------------------------------------------------------------------------------------------


def paletted(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    mask = Image.fromarray(indices)
    mask.putpalette([value for colour in colours for value in colour])
    return mask


def with_palettes(root: Path, *palettes: tuple) -> Path:
    images = [random(256, index, 3).astype(np.uint8) for index in range(len(palettes))]
    return write(root, images, masks=[paletted(label(index), *colours) for index, colours in enumerate(palettes)])


def test_masks_whose_palettes_disagree_are_found(tmp_path):
    black = (0, 0, 0)
    source = with_palettes(tmp_path / "own", (black, RED, GREEN), (black, RED, GREEN), (black, GREEN, RED))
    with pytest.raises(UserError) as caught:
        prepare(source)
    message = str(caught.value)
    assert all(named in message for named in ("x2.png", str(RED), str(GREEN), "mask_format"))
    assert "x0.png" in message or "x1.png" in message
    assert kinds(check(source)).keys() >= {"palettes_differ"}
    # Both remedies of the message work.
    assert sorted(prepared(source, mask_format="indices")) == ["x0", "x1", "x2"]
    (source / "classes.txt").write_text("road 0 0 0\nsky 128 0 0\ntree 0 128 0\n")
    (tmp_path / "coloured").mkdir()
    source = source.rename(tmp_path / "coloured" / "own")
    found = prepared(source, mask_format="colours")
    assert np.array_equal(found["x2"]["label"], np.array([0, 2, 1])[label(2)])


def test_colours_of_unused_and_ignored_indices_may_differ(tmp_path):
    source = with_palettes(tmp_path / "own", ((0, 0, 0), RED, GREEN), ((0, 0, 0), RED, GREEN, RED))
    mask = label(0)
    mask[0, 0] = 255
    colours = [(0, 0, 0), RED, GREEN, GREEN, *[(7, 7, 7)] * 251]
    paletted(mask, *colours, RED).save(source / "masks/x0.png")
    mask[0, 0], mask[0, 1] = 0, 255
    paletted(mask, *colours, GREEN).save(source / "masks/x1.png")
    assert len(prepared(source)) == 2


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_masks_of_few_bits_hold_indices(tmp_path, bits):
    """OpenCV and GIMP write two classes as 1 bit, four as 2 bits."""
    source = write(tmp_path / "own", [random(256, index, 3).astype(np.uint8) for index in range(COUNT)])
    labels = [label(index) % 2**bits for index in range(COUNT)]
    for index, indices in enumerate(labels):
        (source / f"masks/x{index}.png").write_bytes(grey_png(indices, bits))
    found = prepared(source)
    assert all(np.array_equal(found[f"x{index}"]["label"], labels[index]) for index in range(COUNT))


# --- TIFFs with an orientation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["stored", "turned"])
def test_a_turned_tiff_obeys_the_same_rule_as_other_formats(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = [random(256, index, 3).astype(np.uint8) for index in range(COUNT)]
    turned = orientation == "turned"
    masks = [Image.fromarray(np.rot90(label(index), 3) if turned else label(index)) for index in range(COUNT)]
    source = write(tmp_path / "own", stored, masks=masks)
    for index, image in enumerate(stored):
        (source / f"images/x{index}.png").unlink()
        Image.fromarray(image).save(source / f"images/x{index}.tif", exif=exif)
    found = prepared(source, orientation=orientation)
    for index, image in enumerate(stored):
        upright = np.rot90(image, 3)
        assert np.array_equal(found[f"x{index}"]["image"], upright if turned else image)
        assert np.array_equal(read_image(source / f"images/x{index}.tif"), upright)


# --- size -------------------------------------------------------------------------------------------------------------


def test_an_image_of_too_many_pixels_has_to_be_cut(tmp_path):
    source = write(tmp_path / "own", [random(256, index, 3).astype(np.uint8) for index in range(COUNT)])
    huge = with_header(source / "images/x1.png", 16_000, 12_000)
    with pytest.raises(UserError, match=r"x1\.png cannot be read .*more than 178 million pixels.*cut it and its label"):
        prepare(source)
    assert "cut it" in kinds(check(source))["image_unreadable"]
    with pytest.raises(UserError, match=r"x1\.png cannot be read.*cut it into smaller images"):
        read_image(huge)


def with_header(path: Path, width: int, height: int) -> Path:
    """Changes the size in a PNG's header."""
    png = bytearray(path.read_bytes())
    png[16:24] = struct.pack(">II", width, height)
    path.write_bytes(with_right_checksums(bytes(png)))
    return path


# --- pages ------------------------------------------------------------------------------------------------------------


def test_a_mask_of_several_pages_is_refused(tmp_path):
    """Some tools write a page for each class; reading the first alone would lose the other classes."""
    source = write(tmp_path / "own", [random(256, index, 3).astype(np.uint8) for index in range(COUNT)])
    first, second = Image.fromarray(label(1)), Image.fromarray(label(2))
    (source / "masks/x1.png").unlink()
    first.save(source / "masks/x1.tif", save_all=True, append_images=[second])
    with pytest.raises(UserError, match=r"x1\.tif has several pages"):
        prepare(source)
    assert "label_no_indices" in kinds(check(source))


def test_a_mask_compressed_as_jpeg_inside_a_tiff_is_refused(tmp_path):
    """Its changed values may all be classes."""
    source = write(tmp_path / "own", [random(256, index, 3).astype(np.uint8) for index in range(COUNT)])
    (source / "masks/x1.png").unlink()
    Image.fromarray(label(1)).save(source / "masks/x1.tif", compression="jpeg")
    with pytest.raises(UserError, match=r"x1\.tif is compressed as JPEG"):
        prepare(source)
    assert "label_lossy" in kinds(check(source))
