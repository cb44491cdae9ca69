"""Class-uniform sampling draws every class once a round, and the ids of a batch can be asked for."""

from itertools import islice

import numpy as np
import pytest
from training_streams import flat, stream


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
def test_ids_are_those_of_the_global_batch(uniform, process):
    settings = {"count": 12, "class_presence": PRESENCE if uniform else None}
    whole = [flat([batch]) for batch in islice(stream(**settings), 6)]
    one = stream(**settings, process=process)
    assert [one.ids(position) for position in range(6)] == [[f"e{first}" for first, *_ in batch] for batch in whole]


# Every record shows class 0, some show class 1, one shows class 2, none shows class 3.
PRESENCE = np.zeros((12, 4), bool)
PRESENCE[:, 0] = PRESENCE[::4, 1] = PRESENCE[5, 2] = True


def drawn(rounds: int, **settings) -> np.ndarray:
    """Return the records in the order drawn, one row per round."""
    taken = flat(islice(stream(12, class_presence=PRESENCE, batch_size=3, **settings), rounds))
    return np.array([example[0] for example in taken]).reshape(rounds, 3)


def test_every_round_draws_every_class_once():
    rounds = drawn(60)
    assert (rounds == 5).any(axis=1).all()
    assert np.isin(rounds, [0, 4, 8]).any(axis=1).all()
    turns = [tuple(np.where(row == 5, 2, np.isin(row, [0, 4, 8]) * 1)) for row in rounds]
    assert len(set(turns)) > 3, "in another order each time"


def test_records_of_a_class_are_drawn_equally_often():
    counts = np.bincount(drawn(36).ravel(), minlength=12)
    others = np.setdiff1d(np.arange(12), [0, 4, 5, 8])
    assert (counts[others] == 3).all(), "36 turns of class 0 over 12 records"
    assert (counts[[0, 4, 8]] == 3 + 12).all(), "and 36 turns of class 1 over 3"
    assert counts[5] == 3 + 36


def test_class_uniform_batches_depend_on_seed_and_position_alone():
    settings = {"count": 12, "class_presence": PRESENCE, "batch_size": 4}
    first = [flat([batch]) for batch in islice(stream(**settings), 12)]
    assert [flat([batch]) for batch in islice(stream(**settings, threads=0, position=5), 7)] == first[5:]
    assert [flat([batch]) for batch in islice(stream(**settings, seed=1), 12)] != first
    halves = [flat(islice(stream(**settings, process=(index, 2)), 12)) for index in range(2)]
    assert sorted(halves[0] + halves[1]) == sorted(example for batch in first for example in batch)
