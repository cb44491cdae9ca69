"""Properties of both synthetic datasets, `scenes` and `scenes_places`."""

import numpy as np
import pytest
from scene_labels import draw_labels, is_class

from cpnet_jax.data.scenes import CLASSES, IGNORED, PALETTE, render, render_places

RENDER = {"scenes": render, "scenes_places": render_places}
# Shares of pixels: the least and the most that is ignored, and the least of a class; and the least of pictures with it.
SHARES = {"scenes": (0.005, 0.03, 0.012, 0.1), "scenes_places": (0.02, 0.06, 0.004, 0.4)}
SIZES = {"scenes": [(64, 64), (96, 128), (160, 100), (65, 97)]}
SIZES["scenes_places"] = [*SIZES["scenes"], (40, 300), (16, 16)]


@pytest.fixture(scope="module", params=RENDER)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def labels(name):
    return draw_labels(RENDER[name], 100)


def test_render_is_a_pure_function_of_seed_index_and_size(name):
    render = RENDER[name]
    first = render(3, 5)
    render(9, 9)
    again = render(3, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (render(3, 6), render(4, 5)):
        assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("dataset", "size"), [(name, size) for name, sizes in SIZES.items() for size in sizes])
def test_pictures_have_the_requested_size(dataset, size):
    for index in range(8):
        image, label = RENDER[dataset](0, index, size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert label.shape == size and label.dtype == np.uint8
        assert image.std() > 10


def test_label_values_are_classes_or_ignored_and_void_is_thin(name, labels):
    least, most, *_ = SHARES[name]
    assert set(np.unique(labels)) == {*range(len(CLASSES)), IGNORED}
    assert least < np.mean(labels == IGNORED) < most


def test_every_class_appears_often_enough_to_be_learned(name, labels):
    *_, of_pixels, of_pictures = SHARES[name]
    for one in CLASSES:
        here = is_class(labels, one)
        assert here.mean() > of_pixels, one
        assert here.any((1, 2)).mean() > of_pictures, one


def test_palette_colours_can_be_told_apart():
    colours = np.array(PALETTE, float)
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert len(PALETTE) == len(CLASSES)
    assert gaps[~np.eye(len(CLASSES), dtype=bool)].min() > 50
