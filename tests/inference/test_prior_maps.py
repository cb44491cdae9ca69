"""Rows of the prior equal those of the full matrix; chosen positions are inside their regions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax import losses
from cpnet_jax.inference.prior_maps import choose_positions, ideal_rows, prior_rows
from cpnet_jax.models import PriorFactors

IGNORED = 255


def make_prior(batch=2, n=35, channels=5) -> PriorFactors:
    rng = np.random.default_rng(0)
    shapes = (batch, n, channels), (channels, n), (n,)
    return PriorFactors(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


def make_classes() -> np.ndarray:
    """A big 3, a smaller 7 with a hole of ignored pixels, two patches of 1 and a single 5."""
    classes = np.full((12, 20), 3, np.uint8)
    classes[1:8, 10:19] = 7
    classes[4:5, 13:16] = IGNORED
    classes[9:11, 1:5] = 1
    classes[10:12, 10:13] = 1
    classes[0, 0] = 5
    return classes


def test_rows_equal_those_of_each_images_full_prior():
    prior = make_prior()
    positions = jnp.array([[0, 34, 7], [33, 33, 2]])
    rows = prior_rows(prior, positions)
    whole = jax.nn.sigmoid(prior.logits())
    assert rows.shape == (2, 3, 35)
    for image in range(2):
        np.testing.assert_allclose(rows[image], whole[image][positions[image]], rtol=1e-6)


def test_rows_are_computed_without_the_full_prior():
    n = 5000
    prior = PriorFactors(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, n, 4), (4, n), (n,))))
    traced = jax.make_jaxpr(prior_rows)(prior, jax.ShapeDtypeStruct((1, 3), jnp.int32))
    largest = max(v.aval.size for equation in traced.jaxpr.eqns for v in equation.outvars)
    assert largest <= 4 * n


def test_ideal_rows_are_those_of_the_ideal_affinity_map():
    classes = make_classes()
    positions = [(0, 0), (4, 14), (11, 12), (6, 3)]
    whole = losses.ideal_affinity_map(jnp.asarray(classes.reshape(1, -1)))[0]
    expected = np.stack([whole[row * 20 + column] for row, column in positions]).reshape(4, 12, 20)
    assert np.array_equal(ideal_rows(classes, positions), expected)
    assert ideal_rows(classes, []).shape == (0, 12, 20)


def test_positions_are_of_different_classes_largest_first():
    classes = make_classes()
    positions = choose_positions(classes, 4)
    assert [classes[position] for position in positions] == [3, 7, 1, 5]
    assert choose_positions(classes, 2) == positions[:2]
    assert choose_positions(classes.copy(), 4) == positions


def test_a_class_has_one_position_unless_there_are_too_few_classes():
    classes = make_classes()
    positions = choose_positions(classes, 9)
    assert [classes[position] for position in positions] == [3, 7, 1, 5, 1]
    assert positions[2][0] in (9, 10) and positions[2][1] < 5, "of 8 positions, not of 6"
    assert positions[4][1] >= 10


def test_a_position_is_well_inside_its_region():
    classes = np.zeros((21, 21), np.uint8)
    classes[:, 15:] = 1
    classes[:, 6:9] = 2  # leaves 0 a strip of 6 columns and one of 6
    positions = choose_positions(classes, 3)
    for (row, column), (left, right) in zip(positions, ((0, 5), (15, 20), (6, 8)), strict=True):
        assert left + (right - left) // 2 <= column <= right - (right - left) // 2
        assert 5 <= row <= 15, "nor at the end of a strip"


def test_a_position_of_a_ring_is_on_the_ring():
    classes = np.full((15, 15), IGNORED, np.uint8)
    classes[1:14, 1:14] = 4
    classes[4:11, 4:11] = IGNORED
    [position] = choose_positions(classes, 3)
    assert classes[position] == 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (60, 60)])
def test_without_any_label_there_is_no_position(shape):
    assert choose_positions(np.full(shape, IGNORED, np.uint8), 3) == []


def test_a_single_labelled_position_is_found():
    assert choose_positions(np.array([[IGNORED, 2, IGNORED]]), 3) == [(0, 1)]


def test_another_ignore_label_is_obeyed():
    classes = np.zeros((4, 4), np.uint8)
    classes[0] = 9
    assert {classes[p] for p in choose_positions(classes, 5, ignore_label=9)} == {0}
