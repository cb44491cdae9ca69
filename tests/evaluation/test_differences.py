"""Every pixel of two predictions is of one kind."""

import itertools

import numpy as np
import pytest

from cpnet_jax.evaluation.comparison.differences import COLOURS, Kind, kinds, picture, shares

IGNORED = 255
# label, first, other -> kind
EXPECTED = {
    (0, 0, 0): Kind.BOTH_RIGHT,
    (0, 0, 1): Kind.ONLY_FIRST,
    (0, 1, 0): Kind.ONLY_OTHER,
    (0, 1, 1): Kind.WRONG_ALIKE,
    (0, 1, 2): Kind.WRONG_APART,
    (IGNORED, 1, 1): Kind.IGNORED,
    (IGNORED, 0, 1): Kind.IGNORED,
}


def as_row(values):
    return np.array([list(values)], np.uint8)


def test_each_kind_is_what_its_name_says():
    label, first, other = map(as_row, zip(*EXPECTED, strict=True))
    assert kinds(label, first, other, IGNORED)[0].tolist() == list(EXPECTED.values())


def test_shares_are_of_the_labelled_pixels():
    cases = list(itertools.product([0, 1, 2, IGNORED], [0, 1, 2], [0, 1, 2]))
    label, first, other = map(as_row, zip(*cases, strict=True))
    found = shares(kinds(label, first, other, IGNORED))
    labelled = [case for case in cases if case[0] != IGNORED]
    right = sum(label == first == other for label, first, other in labelled)
    assert found[Kind.BOTH_RIGHT] == pytest.approx(right / len(labelled))
    assert sum(found.values()) == pytest.approx(1) and Kind.IGNORED not in found
    assert shares(kinds(as_row([IGNORED]), as_row([0]), as_row([1]), IGNORED)) == {}


def test_the_picture_shows_the_image_in_pale_greys_only_where_both_are_right():
    label, first, other = map(as_row, zip(*EXPECTED, strict=True))
    found = kinds(label, first, other, IGNORED)
    drawn = picture(np.zeros((1, len(EXPECTED), 3), np.uint8), found)
    assert drawn[0, 0].tolist() == [190] * 3, "the darkest of the pale greys"
    for place, kind in enumerate(EXPECTED.values()):
        if kind != Kind.BOTH_RIGHT:
            assert tuple(drawn[0, place].tolist()) == COLOURS[kind]
