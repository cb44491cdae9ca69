"""On a terminal, training ends with where the time went and which classes are confused most."""

import numpy as np

from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.modes.train import _summary

LOGGED = [{"step": 4, "loss": 1.0, "step_seconds": 30.0}, {"step": 4, "evaluation_seconds": 40.0, "mIoU": 0.5}]


def test_the_summary_names_the_time_and_the_three_most_confused_pairs():
    confusion = np.diag(np.full(11, 50)).astype(np.int64)
    confusion[0, 1], confusion[2, 3], confusion[4, 5], confusion[6, 7] = 30, 50, 10, 1
    names = CAMVID.classes
    assert _summary(Evaluation(CAMVID, confusion, images=1), LOGGED) == [
        "Time: training steps 2 min 00 s (75%), evaluations 40.0 s (25%).",
        f"Most confused: {names[2]} taken for {names[3]} (50.0% of its pixels), {names[0]} taken for {names[1]} (37.5% "
        f"of its pixels), {names[4]} taken for {names[5]} (16.7% of its pixels).",
    ]


def test_a_perfect_network_confuses_nothing():
    evaluation = Evaluation(CAMVID, np.diag(np.full(11, 50)).astype(np.int64), images=1)
    assert len(_summary(evaluation, LOGGED)) == 1
