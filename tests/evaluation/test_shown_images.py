"""Evaluations keep the images that they show, and give them back unchanged."""

import numpy as np
import pytest
from PIL import Image

from cpnet_jax.data import pictures
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.evaluation import shown_images
from cpnet_jax.evaluation.samples import Sample

SIZES = [(1, 1), (30, 40), (128, 128), (300, 170), (60, 1100), (700, 30)]


def sample(size, name="a", seed=0):
    rng = np.random.default_rng(seed)
    label = rng.choice([*range(len(CAMVID.classes)), 255], size).astype(np.uint8)
    prediction = rng.integers(0, len(CAMVID.classes), size).astype(np.uint8)
    return Sample(name, rng.integers(0, 256, (*size, 3)).astype(np.uint8), label, prediction, {})


@pytest.mark.parametrize("size", SIZES)
def test_a_panel_gives_back_its_image_unchanged(size):
    shown = sample(size)
    panel = pictures.panel(shown.image, shown.label, shown.prediction, CAMVID)
    np.testing.assert_array_equal(pictures.image_of_panel(panel, size), shown.image)


def test_a_panel_without_such_an_image_is_refused():
    with pytest.raises(ValueError, match="a panel of 50x50 holds no image of 300x200"):
        pictures.image_of_panel(Image.new("RGB", (50, 50)), (200, 300))


def test_written_images_are_read_back_in_the_order_of_their_names(tmp_path):
    written = [sample((30, 40 + i), name, seed=i) for i, name in enumerate(("val/b", "val/a", "c"))]
    for each in written:
        shown_images.write(tmp_path, each, CAMVID)
    shown_images.write_index(tmp_path, [each.id for each in written])
    found = list(shown_images.read(tmp_path, most=9))
    assert [each.id for each in found] == ["c", "val/a", "val/b"]
    for each in written:
        [same] = [other for other in found if other.id == each.id]
        for name in ("image", "label", "prediction"):
            np.testing.assert_array_equal(getattr(same, name), getattr(each, name))
    assert [each.id for each in shown_images.read(tmp_path, most=2)] == ["c", "val/a"]


def test_images_of_an_older_evaluation_are_left_out(tmp_path):
    for name in ("old", "new"):
        shown_images.write(tmp_path, sample((16, 24), name), CAMVID)
    assert list(shown_images.read(tmp_path, most=9)) == []
    shown_images.write_index(tmp_path, ["new"])
    assert [each.id for each in shown_images.read(tmp_path, most=9)] == ["new"]
    shown_images.forget(tmp_path)
    assert list(shown_images.read(tmp_path, most=9)) == []


@pytest.mark.parametrize("index", [b"", b"{", b"{}", b"[1]", b'[""]', b'"old"', b"[[]]", b"\xff"])
def test_a_damaged_index_lists_nothing(tmp_path, index):
    shown_images.write(tmp_path, sample((16, 24), "old"), CAMVID)
    (tmp_path / "predictions" / "shown.json").write_bytes(index)
    assert list(shown_images.read(tmp_path, most=9)) == []


def test_incomplete_and_foreign_files_are_left_out(tmp_path):
    names = ("whole", "no_panel", "no_prediction", "damaged", "colours", "other_size")
    for name in names:
        shown_images.write(tmp_path, sample((16, 24), name), CAMVID)
    shown_images.write_index(tmp_path, [*names, "nowhere", "../whole"])
    folder = tmp_path / "predictions"
    (folder / "no_panel_panel.png").unlink()
    (folder / "no_prediction_prediction.png").unlink()
    (folder / "damaged_label.png").write_bytes(b"\x89PNG")
    Image.new("RGB", (24, 16)).save(folder / "colours_prediction.png")
    Image.new("L", (24, 8)).save(folder / "other_size_prediction.png")
    assert [each.id for each in shown_images.read(tmp_path, most=9)] == ["whole"]
    assert list(shown_images.read(tmp_path / "nowhere", most=9)) == []
