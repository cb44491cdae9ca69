"""The report shows the worst and the best images."""

import numpy as np
import pytest

from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.evaluation.evaluate import evaluate
from cpnet_jax.evaluation.publish import chosen


def evaluation(images):
    """(evaluation, order): image i has i + 1 of 20 pixels right; the images are shuffled."""
    order = np.random.default_rng(0).permutation(images)
    label = np.zeros((1, 20), np.uint8)
    return evaluate((({"label": label}, (np.arange(20) > i).astype(np.uint8)[None]) for i in order), CAMVID), order


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("images", [0, 1, 3, 8, 15])
def test_the_worst_and_the_best_are_shown_and_none_twice(images, count):
    found, order = evaluation(images)
    worst, best = ([int(order[place]) for place in places] for places in chosen(found, count))
    assert worst == list(range(images))[: -(-count // 2)]
    assert best == [i for i in range(images)[::-1] if i not in worst][: count // 2]
