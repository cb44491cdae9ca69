"""Values of stored metadata are compared with their ranges, whatever their size."""

import math

import pytest

from cpnet_jax.config import recorded
from cpnet_jax.errors import UserError
from cpnet_jax.inference import metadata
from cpnet_jax.training import checkpoint

HUGE = int("7" * 4000)


@pytest.mark.parametrize("value", [HUGE, -HUGE, math.inf, -math.inf, math.nan, True, None, "1"])
def test_a_number_that_is_not_in_its_range_is_refused(value):
    assert not metadata.number(0, 10).accepts(value)
    assert metadata.number(0, 10).accepts(10)


@pytest.mark.parametrize("value", [HUGE, -HUGE, math.inf, math.nan, None, "1", 1.5])
def test_an_miou_that_cannot_be_counts_as_none(value):
    assert checkpoint._miou({checkpoint.METRIC: value}) == -math.inf
    assert checkpoint._miou({checkpoint.METRIC: 0.5}) == 0.5


def test_an_integer_too_large_for_a_float_is_not_taken_as_a_field(tmp_path):
    with pytest.raises(ValueError, match=r"optimizer\.base_lr is .*: it must be like"):
        metadata.check_section("optimizer", {"base_lr": HUGE})
    (tmp_path / "config.json").write_text(f'{{"optimizer": {{"base_lr": {"7" * 400}}}}}')
    with pytest.raises(UserError, match=r"has .* as config\.optimizer\.base_lr"):
        recorded.get_config(str(tmp_path))
