"""Panels and overlays show predictions in the dataset's colours, for every shape of the image."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from cpnet_jax.data import large_images
from cpnet_jax.data.catalog import CAMVID, SCENES
from cpnet_jax.data.pictures import colourise, error_map, overlay, panel

IGNORED = 255
SHAPES = [(1, 1), (3, 5), (120, 160), (400, 20), (20, 400), (300, 1), (2, 900), (500, 700)]


def make_trio(shape, dataset=CAMVID, classes=(0, 3, 8)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    label = rng.choice([*classes, IGNORED], shape).astype(np.uint8)
    prediction = rng.choice(classes, shape).astype(np.uint8)
    return image, label, prediction


def picture(*arguments) -> np.ndarray:
    drawn = panel(*arguments)
    assert drawn.mode == "RGB"
    return np.asarray(drawn)


def test_colourise_gives_each_class_its_colour_and_ignored_black():
    classes = np.array([[*range(11), IGNORED]], np.uint8)
    assert colourise(classes, CAMVID.palette, IGNORED).tolist() == [[*map(list, CAMVID.palette), [0, 0, 0]]]
    assert colourise(classes, CAMVID.palette, IGNORED).dtype == np.uint8


@pytest.mark.parametrize("shape", SHAPES)
def test_colourise_keeps_the_shape(shape):
    _, label, _ = make_trio(shape)
    colours = colourise(label, CAMVID.palette, IGNORED)
    assert colours.shape == (*shape, 3)
    assert np.array_equal((colours == 0).all(-1), label == IGNORED)


def test_overlay_goes_from_the_image_in_grey_to_the_colours():
    image, label, _ = make_trio((6, 7))
    colours = colourise(label, CAMVID.palette, IGNORED)
    copies = image.copy(), colours.copy()
    grey = overlay(image, colours, opacity=0.0)
    assert (np.ptp(grey, axis=-1) == 0).all()
    assert np.array_equal(overlay(image, colours, opacity=1.0), colours)
    white = np.full_like(image, 255)
    assert (overlay(white, white) == 255).all(), "no overflow"
    assert np.array_equal(image, copies[0]) and np.array_equal(colours, copies[1])


def test_overlays_of_large_images_take_little_memory_besides_the_result(monkeypatch):
    image, label, _ = make_trio((500, 700))
    colours = colourise(label, CAMVID.palette, IGNORED)
    monkeypatch.setattr(large_images, "PIXELS_AT_ONCE", 2**12)
    tracemalloc.start()
    drawn = overlay(image, colours)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.5 * drawn.nbytes
    expected = np.round(0.4 * image.mean(axis=-1, keepdims=True) + 0.6 * colours)
    assert np.array_equal(drawn, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_panel_works_for_every_shape_and_stays_small(shape):
    height, width = picture(*make_trio(shape), CAMVID).shape[:2]
    assert width >= 3 * shape[1] and height > shape[0]
    assert width * height < 40e6, "a picture to look at, not one that fills the memory"


def pane_columns(shape: tuple[int, int]) -> list[set[int]]:
    """For each of the three inputs, return the columns of the panel that depend on it."""
    image, label, prediction = make_trio(shape)
    grey = np.full_like(image, 128)
    colourful = grey.copy()
    colourful[..., 0] += 60
    colourful[..., 1] -= 60  # keeps the mean, and thus the grey under the overlays
    label[0, 0] = prediction[0, 0] = 0
    label[0, -1] = prediction[0, -1] = 3
    label[1, 0], prediction[1, 0] = 3, 0
    label[1, -1], prediction[1, -1] = 0, 3
    base = picture(grey, label, prediction, CAMVID).astype(int)
    variants = [
        (colourful, label, prediction),
        (grey, label[::-1, ::-1].copy(), prediction),
        (grey, label, prediction[::-1, ::-1].copy()),
    ]
    return [set(np.abs(base - picture(*v, CAMVID)).sum((0, 2)).nonzero()[0].tolist()) for v in variants]


@pytest.mark.parametrize("shape", [(64, 48), (120, 160), (300, 200)])
def test_image_label_and_prediction_have_a_pane_each_from_left_to_right(shape):
    image, label, prediction = map(sorted, pane_columns(shape))
    assert image and label and prediction
    assert image[-1] < label[0] and label[-1] < prediction[0]
    assert label[-1] - label[0] == pytest.approx(image[-1] - image[0], abs=0.1 * len(image))


def test_panes_show_the_image_itself_and_the_palettes_colours():
    image, _, _ = make_trio((300, 200))
    label, prediction = np.full((300, 200), 3, np.uint8), np.full((300, 200), 8, np.uint8)
    drawn = picture(image, label, prediction, CAMVID)
    top = next(row for row in range(drawn.shape[0] - 300) if np.array_equal(drawn[row : row + 300, :200], image))
    for classes, left in ((label, 206), (prediction, 412)):
        expected = overlay(image, colourise(classes, CAMVID.palette, IGNORED))
        assert np.array_equal(drawn[top : top + 300, left : left + 200], expected)


def test_legend_names_every_class_of_the_label_and_of_the_prediction():
    """Changing a letter of a shown class's name changes the picture."""
    image, label, prediction = make_trio((60, 80))
    label[:], prediction[:] = 0, 3
    prediction[-1, -1] = 10
    for shown in (0, 3, 10):
        names = [f"{name[:-1]}W" if i == shown else name for i, name in enumerate(CAMVID.classes)]
        other = dataclasses.replace(CAMVID, classes=tuple(names))
        drawn, renamed = picture(image, label, prediction, CAMVID), picture(image, label, prediction, other)
        assert drawn.shape != renamed.shape or not np.array_equal(drawn, renamed)


@pytest.mark.parametrize("shape", [(1, 1), (20, 400), (50, 50), (400, 100), (400, 20), (300, 1)])
def test_no_text_is_cut_off_or_overwritten(shape):
    """With white panes and swatches, all ink is in titles and legend, and is the same for every shape."""
    shown = range(min(shape[0] * shape[1], len(CAMVID.classes)))
    white = dataclasses.replace(CAMVID, palette=((255,) * 3,) * len(CAMVID.classes))

    def ink(height: int, width: int) -> int:
        """Count the non-white pixels of a panel of that size."""
        image = np.full((height, width, 3), 255, np.uint8)
        label, prediction = np.full((height, width), 10, np.uint8), np.full((height, width), 10, np.uint8)
        label.flat[: len(shown)] = shown
        return (255 - picture(image, label, prediction, white).astype(int)).sum()

    assert ink(*shape) == ink(300, 400) > 0


def test_legend_leaves_out_classes_that_are_not_shown():
    trio = make_trio((60, 80))
    renamed = tuple(name if i in (0, 3, 8) else "unseen" for i, name in enumerate(CAMVID.classes))
    other = dataclasses.replace(CAMVID, classes=renamed)
    assert np.array_equal(picture(*trio, CAMVID), picture(*trio, other))


@pytest.mark.parametrize("dataset", [CAMVID, SCENES], ids=lambda dataset: dataset.name)
def test_legend_shows_the_full_colour_of_every_class(dataset):
    """Overlays are muted, so only the legend has the full colours."""
    count = len(dataset.classes)
    image, label, prediction = make_trio((40, 60), classes=range(count))
    drawn = picture(image, label, prediction, dataset)
    below = drawn[drawn.shape[0] - 120 :].reshape(-1, 3)
    for colour in dataset.palette:
        assert (below == colour).all(-1).sum() > 100, colour


def test_an_image_without_any_label_is_drawn():
    image, label, prediction = make_trio((40, 60))
    label[:] = prediction[:] = IGNORED
    assert picture(image, label, prediction, CAMVID).shape[0] > 40


def luminance(colour) -> float:
    """Relative luminance as defined by WCAG."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_error_maps_tell_right_wrong_and_ignored_apart_by_brightness_alone():
    image, label, prediction = make_trio((40, 60))
    drawn = error_map(image, label, prediction, IGNORED)
    ignored, wrong = label == IGNORED, (label != prediction) & (label != IGNORED)
    levels = np.apply_along_axis(luminance, -1, drawn)
    right = ~ignored & ~wrong
    assert levels[right].min() + 0.05 > 1.8 * (levels[wrong].max() + 0.05)
    assert levels[wrong].min() + 0.05 > 4 * (levels[ignored].max() + 0.05)
    assert len(np.unique(drawn[right], axis=0)) > 10, "the image stays visible where it is right"
