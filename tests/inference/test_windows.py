"""Windows cover every pixel, and their contributions add up to plain interpolation."""

import numpy as np
import pytest

from cpnet_jax.inference.windows import Side, bilinear_taps, scaled_size, window_offsets

SIZES = [1, 2, 5, 23, 24, 25, 40, 97, 200]
SCALES = [0.3, 0.5, 0.75, 1.0, 1.5, 1.75, 2.0]
CROP = 24


@pytest.mark.parametrize("crop", [1, 2, 3, 8, 12, 64, 480, 512])
def test_offsets_cover_every_pixel_with_stride_two_thirds_and_end_flush(crop):
    stride = max(2 * crop // 3, 1)
    for size in {*range(1, 60), crop - 1, crop, crop + 1, crop + stride, crop + stride + 1, 3 * crop + 1, 2048} - {0}:
        offsets = window_offsets(size, crop)
        covered = np.zeros(max(size, crop), bool)
        for start in offsets:
            assert 0 <= start <= max(size - crop, 0)
            covered[start : start + crop] = True
        assert covered.all()
        if size <= crop:
            assert offsets == [0]
        else:
            assert offsets[-1] == size - crop
            assert set(np.diff(offsets[:-1])) <= {stride}
            assert 0 < offsets[-1] - offsets[-2] <= stride


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [(480, 480, [0]), (100, 480, [0]), (481, 480, [0, 1]), (800, 480, [0, 320]), (801, 480, [0, 320, 321])],
)
def test_offsets_of_known_cases(size, crop, expected):
    assert window_offsets(size, crop) == expected


@pytest.mark.parametrize(
    ("size", "scale", "expected"), [(683, 0.75, 512), (5, 0.5, 3), (1, 0.25, 1), (1, 1.75, 2), (375, 1.0, 375)]
)
def test_a_scaled_side_is_rounded_half_up_and_never_empty(size, scale, expected):
    assert scaled_size(size, scale) == expected


@pytest.mark.parametrize("out", SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_taps_are_torchs_bilinear_interpolation(size, out):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=size)
    taps = bilinear_taps(size, out)
    ours = x[taps.lower] * taps.weight[0] + x[taps.upper] * taps.weight[1]
    theirs = torch.nn.functional.interpolate(torch.tensor(x)[None, None, None], (1, out), mode="bilinear")[0, 0, 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def spread(side: Side, size: int, tiles: list[tuple[int, int]], values: np.ndarray) -> np.ndarray:
    """The sum of all windows' contributions to the image's pixels; every window holds `values` at its own places."""
    found = np.zeros(size)
    for begin, end in tiles:
        for offset in side.offsets:
            if reach := side.reach(offset, begin, end):
                window, taps = np.resize(values[offset : offset + CROP], CROP), reach.taps
                part = window[taps.lower] * taps.weight[0] + window[taps.upper] * taps.weight[1]
                found[begin + reach.start : begin + reach.start + len(part)] += part
    return found


def tilings(size: int) -> list[list[tuple[int, int]]]:
    return [[(0, size)], [(0, size // 3), (size // 3, size)], [(i, i + 1) for i in range(size)]]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SIZES)
def test_averaged_windows_give_the_interpolated_values_whatever_the_tiles(size, scale):
    side = Side(size, scale, CROP, average=True)
    values = np.random.default_rng(0).normal(size=side.scaled)
    taps = bilinear_taps(side.scaled, size)
    expected = values[taps.lower] * taps.weight[0] + values[taps.upper] * taps.weight[1]
    for tiles in tilings(size):
        np.testing.assert_allclose(spread(side, size, tiles, values), expected, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SIZES)
def test_summed_windows_count_each_value_once_for_every_window_that_covers_it(size, scale):
    side = Side(size, scale, CROP)
    values = np.random.default_rng(0).normal(size=side.scaled)
    covering = np.zeros(max(side.scaled, CROP))
    for offset in side.offsets:
        covering[offset : offset + CROP] += 1
    taps, summed = bilinear_taps(side.scaled, size), values * covering[: side.scaled]
    expected = summed[taps.lower] * taps.weight[0] + summed[taps.upper] * taps.weight[1]
    for tiles in tilings(size):
        np.testing.assert_allclose(spread(side, size, tiles, values), expected, atol=1e-12)
