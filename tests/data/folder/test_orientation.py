"""An image is turned as EXIF says only if its mask shows that it should be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from users_folder import IMAGE, MASK, assert_one_sentence, examples_of, prepare, write

from cpnet_jax.data import builders
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.data.doctor import examined_data, sheet
from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.findings import is_fault
from cpnet_jax.data.doctor.scan import scan
from cpnet_jax.errors import UserError


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


def check(source: Path, **layout) -> Census:
    builder = builders.make_builder(builders.describe_folder(source, FolderLayout(**layout)), source / "none", source)
    examined = examined_data.from_source(builder)
    return Census(examined, scan(examined, 2), "train", "val")


@pytest.mark.parametrize("choice", ["auto", "stored", "turned"])
@pytest.mark.parametrize(
    ("orientation", "size", "mask_size"),
    [(6, (24, 16), (16, 24)), (6, (24, 16), (24, 16)), (6, (16, 16), (16, 16)), (3, (24, 16), (24, 16))],
)
def test_check_data_and_prepare_agree_on_turned_photographs(tmp_path, choice, orientation, size, mask_size):
    source = with_orientation(write(tmp_path / "own"), orientation, np.ones(mask_size[::-1], np.uint8), size)
    census = check(source, orientation=choice)
    faults = [finding.kind for finding in census.findings if is_fault(finding)]
    try:
        image = examples_of(prepare(source, tmp_path / "data", orientation=choice))["a1"]["image"]
    except UserError:
        assert faults == ["size_mismatch" if mask_size != size else "orientation_unknown"]
    else:
        assert not faults and census.sizes[image.shape[1::-1]] == 1


def test_the_sheet_shows_photographs_as_they_are_prepared(tmp_path, monkeypatch):
    source = with_orientation(write(tmp_path / "own"), 6, np.ones((24, 16), np.uint8))
    prepared = examples_of(prepare(source, tmp_path / "data"))["a1"]["image"]
    drawn = []
    monkeypatch.setattr(sheet, "overlay", lambda image, colours: drawn.append(image) or colours)
    assert sheet.contact_sheet(check(source))
    [photograph] = [image for image in drawn if image.shape == prepared.shape]
    assert np.abs(photograph.astype(int) - prepared).max() < 8, "they are encoded once more"
