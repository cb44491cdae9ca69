"""Properties of the synthetic `scenes` dataset that the experiments rely on."""

from functools import cache

import numpy as np
import pytest
from scene_labels import CUES, REACH, distance_to, draw_labels, is_class

from cpnet_jax.data.scenes import CLASSES, HARD_PAIRS, IGNORED, render
from cpnet_jax.data.scenes.places import draw


@pytest.fixture(scope="module")
def labels():
    return draw_labels(render, 300)


def hard_class(label: np.ndarray) -> str:
    """Return the hard class of a picture, according to its cue."""
    (name,) = [hard for hard, cue in CUES.items() if is_class(label, cue).any()]
    return name


@cache
def twins(index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw one picture twice, once with each class of its hard pair."""
    return [draw(np.random.default_rng([0, index]), (128, 128), member) for member in (0, 1)]


def test_members_of_a_hard_pair_are_equally_frequent(labels):
    names = [hard_class(label) for label in labels]
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


def test_cues_are_mostly_far_from_the_hard_region(labels):
    for hard, cue in CUES.items():
        far = [
            distance_to(is_class(label, cue))[is_class(label, hard)] for label in labels if is_class(label, cue).any()
        ]
        assert np.median(np.concatenate(far)) > 16, hard
