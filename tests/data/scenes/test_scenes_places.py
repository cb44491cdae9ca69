"""Properties of the synthetic `scenes_places` dataset: only objects of the same part tell look-alikes apart."""

import itertools
from functools import cache

import cv2
import numpy as np
import pytest
from scene_labels import CUES, REACH, distance_to, draw_labels, is_class

from cpnet_jax.data.scenes import CLASSES, HARD_PAIRS, IGNORED, composite, number_parts, render_places
from cpnet_jax.data.scenes import partition as partitions
from cpnet_jax.data.scenes.partition import box, partition

COUNT = 200


@pytest.fixture(scope="module")
def labels():
    return draw_labels(render_places, COUNT)


@cache
def parts_of(index: int) -> list[np.ndarray]:
    """Masks (H, W) of the parts of a picture of seed 0."""
    return partition(np.random.default_rng([0, index]).spawn(2)[1], (128, 128))[0]


def hard_class(label: np.ndarray, part: np.ndarray) -> str:
    """Returns the hard class of a part, according to its cue."""
    [name] = [name for name, cue in CUES.items() if (is_class(label, cue) & part).any()]
    return name


def hard_regions(index: int, label: np.ndarray) -> dict[str, np.ndarray]:
    """Masks (H, W) of the hard classes of a picture of seed 0, each in the parts with its cue."""
    found = {}
    for part in parts_of(index):
        name = hard_class(label, part)
        found[name] = found.get(name, False) | (is_class(label, name) & part)
    return found


def twins(index: int, changed: int, count: int):
    """Draws one picture twice; one part has one class of its hard pair, and then the other."""
    for coin in (0, 1):
        members = tuple(coin if part == changed else (index + part) % 2 for part in range(count))
        yield composite.draw(np.random.default_rng([0, index]), (128, 128), members)


@pytest.mark.parametrize("size", [(15, 64), (64, 15), (4, 4), (0, 16)])
def test_pictures_without_room_for_several_places_are_refused(size):
    """In the smallest, such as 1x1, a drawing would never end."""
    with pytest.raises(ValueError, match="at least 16 pixels"):
        render_places(0, 0, size)


def test_every_size_soon_has_room_for_three_places(monkeypatch):
    """Odd sides and multiples of 16, at which the cut's sample of pixels is coarsest."""
    monkeypatch.setattr(partitions, "CUTS", partitions.CUTS[-1:])
    cut, draws = partitions._cut, iter(())

    def limited(*arguments):
        next(draws)
        return cut(*arguments)

    monkeypatch.setattr(partitions, "_cut", limited)
    sides = (partitions.SMALLEST_SIDE, 17, 23, 31, 32, 48)
    for size in itertools.product(sides, sides):
        draws = iter(range(1000))
        assert len(partition(np.random.default_rng([5, *size]), size)[0]) == 3


def test_the_number_of_a_pixels_place_is_that_of_its_part():
    for index in range(20):
        parts = parts_of(index)
        assert np.array_equal(number_parts(0, index) == np.arange(len(parts))[:, None, None], parts)


def test_parts_cover_a_picture_once_and_are_large():
    counts = []
    for index in range(COUNT):
        parts = parts_of(index)
        assert np.all(sum(part.astype(int) for part in parts) == 1)
        assert min(part.mean() for part in parts) > 0.2, index
        counts.append(len(parts))
    assert set(counts) == {2, 3} and 0.5 < counts.count(2) / COUNT < 0.8


def test_borders_have_every_direction_and_cross_the_middle():
    """Slopes and positions of the first cut are spread out, so no fixed layout fits."""
    centres = []
    for index in range(COUNT):
        first = np.argwhere(parts_of(index)[0]).mean(0) - 63.5
        centres.append(np.arctan2(*first))
    turns = np.histogram(centres, 4, (-np.pi, np.pi))[0]
    assert turns.min() > COUNT / 4 - 4 * np.sqrt(COUNT * 3 / 16)


def test_box_is_the_largest_rectangle_in_a_part():
    part = np.zeros((20, 30), bool)
    part[2:9, 4:25] = True
    assert box(part) == (2, 4, 7, 21)
    triangle = np.tri(64, dtype=bool)  # the lower left half
    top, left, height, width = box(triangle)
    assert triangle[top : top + height, left : left + width].all()
    assert (height, width) in {(32, 33), (33, 32)} and left == 0


def test_every_part_shows_its_own_cue_and_no_other(labels):
    for index, label in enumerate(labels):
        for part in parts_of(index):
            own = hard_class(label, part)
            assert (is_class(label, CUES[own]) & part).sum() >= 30, (index, own)
            assert (is_class(label, own) & part).sum() >= 100, (index, own)


def test_cues_are_whole(labels):
    """In nearly every part, a cue is away from the part's edge."""
    whole = []
    for index, label in enumerate(labels):
        for part in parts_of(index):
            inside = cv2.erode(np.pad(part, 1).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
            cue = is_class(label, CUES[hard_class(label, part)]) & part
            count, blobs = cv2.connectedComponents(cue.astype(np.uint8))
            whole.append(any(inside[blobs == blob].all() for blob in range(1, count)))
    assert np.mean(whole) > 0.99


def test_every_picture_has_both_classes_of_a_pair(labels):
    for index, label in enumerate(labels):
        assert any(set(pair) <= set(hard_regions(index, label)) for pair in HARD_PAIRS)


def test_position_says_nothing_of_the_class(labels):
    """In pictures with both classes of a pair, each is as often on the left, and on top, as the other."""
    found = [hard_regions(index, label) for index, label in enumerate(labels)]
    for pair in HARD_PAIRS:
        both = [regions for regions in found if set(pair) <= set(regions)]
        centres = np.array([[np.argwhere(regions[name]).mean(0) for name in pair] for regions in both])
        first_is_before = np.mean(centres[:, 0] < centres[:, 1], axis=0)
        assert len(both) > COUNT / 3
        assert np.all(np.abs(first_is_before - 0.5) < 4 * 0.5 / np.sqrt(len(both))), (pair, first_is_before)


def test_changing_one_part_changes_its_cues_and_labels_only():
    """Everything else stays the same: pixels away from the part's cues, and labels of the other parts."""
    for index in range(40):
        parts = parts_of(index)
        for changed, part in enumerate(parts):
            (image, label), (other_image, other_label) = twins(index, changed, len(parts))
            pair = hard_class(label, part), hard_class(other_label, part)
            assert pair in HARD_PAIRS
            assert np.array_equal(label[~part], other_label[~part])
            cues = [is_class(x, CUES[name]) & part for x, name in zip((label, other_label), pair, strict=True)]
            away = distance_to(cues[0] | cues[1]) > REACH
            assert np.array_equal(image[away], other_image[away]), index
            differs = label != other_label
            involved = {CLASSES.index(name) for name in (*pair, *(CUES[n] for n in pair))}
            both = np.stack([label[differs], other_label[differs]])
            assert np.isin(both, [*involved, IGNORED]).any(0).all(), index


def test_cues_are_mostly_far_from_the_hard_region(labels):
    for hard, cue in CUES.items():
        far = [
            distance_to(is_class(label, cue))[regions[hard]]
            for index, label in enumerate(labels)
            if hard in (regions := hard_regions(index, label))
        ]
        assert np.median(np.concatenate(far)) > 16, hard


def test_objects_of_other_parts_are_often_nearer(labels):
    """The nearest object names the wrong class in a share of the pixels, so borders must be respected."""
    for pair in HARD_PAIRS:
        wrong = []
        for index, label in enumerate(labels):
            regions = hard_regions(index, label)
            if set(pair) <= set(regions):
                first, second = (distance_to(is_class(label, CUES[name])) for name in pair)
                wrong += [(second < first)[regions[pair[0]]], (first < second)[regions[pair[1]]]]
        assert np.concatenate(wrong).mean() > 0.02, pair
