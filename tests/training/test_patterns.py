"""Patterns on paths."""

import pytest

from cpnet_jax.errors import UserError
from cpnet_jax.training import patterns

PATHS = {"head/classifier/kernel", "head/classifier/bias", "aux_head/classifier/kernel"}


def test_a_pattern_matches_whole_paths_only():
    assert patterns.matching(["head/.*"], PATHS, "x") == {"head/classifier/kernel", "head/classifier/bias"}
    assert patterns.matching([".*/kernel", "head/.*"], PATHS, "x") == PATHS
    assert patterns.matching([], PATHS, "x") == set()


def test_a_pattern_that_matches_nothing_is_refused_by_its_field():
    with pytest.raises(UserError, match=r"config\.finetune\.freeze has 'classifier', which matches none"):
        patterns.matching(["head/.*", "classifier"], PATHS, "config.finetune.freeze")


@pytest.mark.parametrize("pattern", ["(", "*", 5])
def test_what_is_no_regular_expression_is_refused_by_its_field(pattern):
    with pytest.raises(UserError, match=r"config\.init\.skip has .* not a regular expression"):
        patterns.check(["ok", pattern], "config.init.skip")
