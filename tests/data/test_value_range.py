"""One range of values is found for a whole dataset, and maps its lowest value to black and its highest to white."""

import numpy as np
import pytest

from cpnet_jax.data.value_range import Extremes, extremes_of, find_value_range, to_8_bits


@pytest.mark.parametrize(
    ("highest", "found"), [(0, 255), (255, 255), (256, 1023), (1023, 1023), (3376, 4095), (9000, 16383), (16384, 65535)]
)
def test_the_range_is_the_smallest_usual_one_that_holds_all_images(highest, found):
    images = {"a": Extremes(0, highest, False), "b": Extremes(0, highest // 2, False)}
    assert find_value_range(images) == (0, found)


def test_fractions_are_from_0_to_1():
    assert find_value_range({"a": Extremes(0.1, 0.9, True), "b": Extremes(0, 1, True)}) == (0, 1)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ({"a": Extremes(0, 9, False), "b": Extremes(-5, 9, False)}, "b holds negative values"),
        ({"a": Extremes(0, 9, False), "b": Extremes(0, 70000, False)}, "b holds values above 65535"),
        ({"a": Extremes(0, 0.9, True), "b": Extremes(0, 900, False)}, "a holds fractions up to 1, but b"),
    ],
)
def test_values_without_a_clear_range_are_refused(images, named):
    with pytest.raises(ValueError, match=named):
        find_value_range(images)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_range_of_bits_keeps_the_upper_8(bits):
    values = np.arange(2**bits, dtype=np.uint16)[None]
    for dtype in (np.uint16, np.int32, np.float32):
        scaled = to_8_bits(values.astype(dtype), (0, 2**bits - 1))
        assert np.array_equal(scaled, np.repeat((values >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=-1))


def test_values_outside_the_range_are_cut_off():
    values = np.array([[-9.0, -1.0, 0.0, 1.0, 5.0, np.nan, np.inf, -np.inf]], np.float32)
    assert to_8_bits(values, (-1, 1))[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0, 255, 0]


def test_without_a_range_16_bits_are_divided_by_256_and_32_bits_refused():
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(to_8_bits(values)[..., 1], values >> 8)
    for dtype in (np.int32, np.float32, np.int16):
        with pytest.raises(ValueError, match="unknown range"):
            to_8_bits(values.astype(dtype))


def test_colours_of_8_bits_stay_as_they_are():
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    assert to_8_bits(colours, (0, 4095)) is colours


def test_extremes_leave_out_values_that_are_no_numbers():
    assert extremes_of(np.array([[np.nan, 2.0, -3.0, np.inf]])) == Extremes(-3, 2, True)
    assert extremes_of(np.array([[np.nan]])) == Extremes(0, 0, True)
