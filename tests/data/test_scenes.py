"""Properties of the synthetic `scenes` dataset that the experiments rely on."""

import cv2
import numpy as np
import pytest

from cpnet_jax.data.scenes import CLASSES, HARD_PAIRS, IGNORED, PALETTE, render
from cpnet_jax.data.scenes.places import draw

CUES = {"sea": "boat", "sand": "parasol", "bed": "cabinet", "table": "chair"}
REACH = 24  # largest distance in pixels that a cue's shadow, the blur and the compression reach


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """A few hundred pictures: images (N, H, W, 3) and labels (N, H, W)."""
    images, labels = zip(*(render(0, index) for index in range(300)), strict=True)
    return np.stack(images), np.stack(labels)


def is_class(labels: np.ndarray, name: str) -> np.ndarray:
    return labels == CLASSES.index(name)


def hard_class(label: np.ndarray) -> str:
    """Return the hard class of a picture, according to its cue."""
    (name,) = [hard for hard, cue in CUES.items() if is_class(label, cue).any()]
    return name


def distance_to(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels from every pixel (H, W) to the nearest one in a mask."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)


def twins(index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw one picture twice, once with each class of its hard pair."""
    return [draw(np.random.default_rng([0, index]), (128, 128), member) for member in (0, 1)]


def test_render_is_a_pure_function_of_seed_index_and_size():
    first = render(3, 5)
    render(9, 9)
    again = render(3, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (render(3, 6), render(4, 5)):
        assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (160, 100), (65, 97)])
def test_pictures_have_the_requested_size(size):
    for index in range(8):
        image, label = render(0, index, size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert label.shape == size and label.dtype == np.uint8
        assert image.std() > 10


def test_label_values_are_classes_or_ignored_and_void_is_thin(pictures):
    _, labels = pictures
    assert set(np.unique(labels)) == {*range(len(CLASSES)), IGNORED}
    assert 0.005 < np.mean(labels == IGNORED) < 0.03


def test_every_class_appears_often_enough_to_be_learned(pictures):
    _, labels = pictures
    for name in CLASSES:
        here = is_class(labels, name)
        assert here.mean() > 0.012, name
        assert here.any((1, 2)).mean() > 0.1, name


def test_palette_colours_can_be_told_apart():
    colours = np.array(PALETTE, float)
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert len(PALETTE) == len(CLASSES)
    assert gaps[~np.eye(len(CLASSES), dtype=bool)].min() > 50


def test_members_of_a_hard_pair_are_equally_frequent(pictures):
    names = [hard_class(label) for label in pictures[1]]
    for first, second in HARD_PAIRS:
        share = names.count(first) / (names.count(first) + names.count(second))
        assert 0.38 < share < 0.62, (first, second)


def test_hard_pairs_look_the_same_locally():
    """Changing the class changes no pixel of the hard region away from the cues."""
    compared = 0
    for index in range(40):
        (image, label), (other_image, other_label) = twins(index)
        pair = next(pair for pair in HARD_PAIRS if hard_class(label) in pair)
        swapped = is_class(label, pair[0]) & is_class(other_label, pair[1])
        cues = sum(is_class(x, CUES[y]) for x, y in zip((label, other_label), pair, strict=True))
        away = swapped & (distance_to(cues > 0) > REACH)
        assert np.array_equal(image[away], other_image[away]), index
        compared += away.mean()
    assert compared / 40 > 0.05


def test_hard_pairs_differ_by_their_surroundings():
    """Changing the class swaps one clearly visible cue for the other, and changes nothing else."""
    for index in range(40):
        (_, label), (_, other_label) = twins(index)
        pair = hard_class(label), hard_class(other_label)
        assert pair in HARD_PAIRS
        for x, name in zip((label, other_label), pair, strict=True):
            assert is_class(x, CUES[name]).sum() > 60, (index, name)
        involved = {CLASSES.index(name) for name in (*pair, *(CUES[n] for n in pair))}
        changed = label != other_label
        assert changed.any()
        both = np.stack([label[changed], other_label[changed]])
        assert np.isin(both, [*involved, IGNORED]).any(0).all(), index


def test_cues_are_mostly_far_from_the_hard_region(pictures):
    for hard, cue in CUES.items():
        far = [
            distance_to(is_class(label, cue))[is_class(label, hard)]
            for label in pictures[1]
            if is_class(label, cue).any()
        ]
        assert np.median(np.concatenate(far)) > 16, hard
