"""Pictures of the context prior show its rows at the right positions."""

import dataclasses

import numpy as np
import pytest

from cpnet_jax.data.pictures import overlay
from cpnet_jax.evaluation.prior_pictures import HEAT_OPACITY, heat, marked, prior_panel, prior_row
from cpnet_jax.evaluation.samples import PriorSample


def test_heat_grows_brighter_with_the_value_and_takes_its_ends_from_zero_to_one():
    colours = heat(np.linspace(0, 1, 64)[None])[0]
    assert (np.diff(colours @ (0.2126, 0.7152, 0.0722) / 255) >= -0.003).all()
    assert np.array_equal(heat(np.array([[-1.0, 2.0]]))[0], colours[[0, -1]])


def make_prior_sample(positions=((0, 0), (3, 4)), grid=(4, 6), stride=8) -> PriorSample:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (grid[0] * stride, grid[1] * stride, 3)).astype(np.uint8)
    rows = rng.random((len(positions), *grid)).astype(np.float32)
    return PriorSample("a", image, tuple(positions), rows, (rows > 0.5).astype(np.float32))


def test_a_row_of_the_prior_is_drawn_cell_by_cell_under_its_mark():
    sample = make_prior_sample(stride=64)  # large enough not to be enlarged
    row = np.zeros((4, 6), np.float32)
    row[1, 2] = 1
    drawn = np.asarray(prior_row(sample.image, row, (3, 4), 1)).astype(int)
    dark, bright = heat(np.zeros((256, 384))), heat(np.ones((256, 384)))
    unlike = (drawn != overlay(sample.image, dark, HEAT_OPACITY)).any(-1)
    lit = np.zeros((256, 384), bool)
    lit[64:128, 128:192] = True
    assert np.array_equal(drawn[lit], overlay(sample.image, bright, HEAT_OPACITY)[lit])
    assert unlike[lit].all() and not unlike[~lit].all()
    rows, columns = np.nonzero(unlike & ~lit)
    assert rows.min() >= 192 and rows.max() < 256 and columns.min() >= 256 and columns.max() < 320, "the disc"


def test_discs_are_drawn_on_their_positions():
    image = np.zeros((256, 384, 3), np.uint8)
    drawn = np.asarray(marked(image, [(0, 0), (3, 5)], (4, 6)))
    white = (drawn == 255).all(-1)
    assert white[:64, :64].any() and white[192:, 320:].any()
    white[:64, :64] = white[192:, 320:] = False
    assert not white.any()


def changed(one, other) -> np.ndarray:
    """The pixels in which two panels differ."""
    return (np.asarray(prior_panel(one)) != np.asarray(prior_panel(other))).any(-1)


def test_prior_panel_has_a_column_a_position_with_the_prior_over_the_ideal():
    sample = make_prior_sample(grid=(4, 4), stride=64, positions=((0, 0), (3, 3)))

    def middle(field: str, number: int) -> np.ndarray:
        """(y, x) of the pane that shows these values."""
        values = getattr(sample, field).copy()
        values[number] = 1 - values[number]
        places = np.argwhere(changed(sample, dataclasses.replace(sample, **{field: values})))
        assert np.ptp(places, axis=0).tolist() == [255, 255], "one pane and no other"
        return places.min(axis=0)

    first, second, ideal = middle("rows", 0), middle("rows", 1), middle("ideal", 0)
    assert first[0] == second[0] and first[1] < second[1]
    assert first[1] == ideal[1] and first[0] < ideal[0]


@pytest.mark.parametrize("positions", [(), ((0, 0),), ((0, 0), (3, 5), (1, 1), (2, 2))])
@pytest.mark.parametrize("ideal", [True, False])
@pytest.mark.parametrize("stride", [1, 8, 200])
def test_prior_panel_is_drawn_for_any_number_of_positions_and_any_size(positions, ideal, stride):
    sample = make_prior_sample(positions, stride=stride)
    drawn = prior_panel(sample if ideal else dataclasses.replace(sample, ideal=None))
    assert drawn.mode == "RGB"
    assert drawn.width <= (1 + len(positions)) * 1030 and drawn.height < 1500
    assert (drawn.height > 1.9 * drawn.width / (1 + len(positions)) * 4 / 6) == (ideal and bool(positions))
