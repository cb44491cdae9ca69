"""Batches depend on the seed and the place in the stream alone."""

from itertools import islice

import numpy as np
import pytest
from training_streams import decode4, digest, flat, make_records, stream, training

from cpnet_jax.data.stream import examples
from cpnet_jax.errors import UserError


def order(count: int, epochs: int, **settings) -> np.ndarray:
    """Return the records in the order drawn, one row per epoch."""
    taken = islice(stream(count, batch_size=1, **settings), count * epochs)
    return np.array([example[0] for example in flat(taken)]).reshape(epochs, count)


@pytest.mark.parametrize("threads", [0, 1, 3, 16])
def test_batches_are_the_same_for_any_number_of_threads(threads):
    assert flat(islice(stream(threads=threads), 9)) == flat(islice(stream(), 9))


@pytest.mark.parametrize("position", [0, 1, 2, 7, 30])
def test_starting_at_a_position_equals_skipping_batches(position):
    whole = stream()
    for _ in range(position):
        next(whole)
    resumed = stream(position=position)
    assert resumed.position == whole.position == position
    assert flat(islice(resumed, 3)) == flat(islice(whole, 3))
    assert resumed.position == whole.position == position + 3


@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_have_the_batches_of_one_process(count, position):
    parts = [stream(process=(index, count), position=position) for index in range(count)]
    for batch in islice(stream(position=position), 6):
        together = [example for part in parts for example in flat([next(part)])]
        assert sorted(together) == sorted(flat([batch]))


def test_every_process_sees_every_example():
    """Records are shuffled before they are split, so no process has a fixed subset."""
    for index in range(2):
        seen = [example[0] for example in flat(islice(stream(8, process=(index, 2)), 20))]
        assert set(seen) == set(range(8))


@pytest.mark.parametrize("size", [4, 1, 7, 10])
def test_batches_have_their_size_across_epoch_ends(size):
    for batch in islice(stream(7, batch_size=size), 5):
        assert batch["image"].shape == (size, 1, 1, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (size, 2, 2) and batch["label"].dtype == np.uint8
        assert set(batch) == {"image", "label"}


def test_every_epoch_is_another_permutation_of_all_examples():
    epochs = order(11, 6)
    assert (np.sort(epochs, axis=1) == np.arange(11)).all()
    assert len({tuple(epoch) for epoch in epochs} | {tuple(range(11))}) == 7


def test_every_seed_has_its_own_order_and_augmentation():
    orders = [tuple(order(11, 1, seed=seed)[0]) for seed in range(5)]
    assert len(set(orders)) == 5
    draws = [tuple(sorted(flat(islice(stream(1, batch_size=1, seed=seed), 3)))) for seed in range(5)]
    assert len(set(draws)) == 5


def test_an_example_is_augmented_differently_each_time():
    drawn = flat(islice(stream(2, batch_size=2), 20))
    assert len(set(drawn)) == len(drawn)


def test_a_batch_that_the_processes_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch_size"):
        stream(batch_size=5, process=(0, 2))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_examples_yields_each_record_once_in_order(threads):
    found = list(examples(make_records(13), decode=decode4, threads=threads))
    assert [example["id"] for example in found] == [f"e{i}" for i in range(13)]
    assert [int(example["image"][0, 0, 0]) for example in found] == list(range(13))
    assert list(examples([], decode=decode4)) == []


BATCHES, POSITION = 100, 37


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """Digests of the first global batches, with one process, no workers and no threads."""
    found = [digest(batch) for batch in islice(training(threads=0), BATCHES)]
    assert len(set(found)) == BATCHES
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(expected, workers):
    with training(workers=workers, threads=2) as batches:
        assert [digest(batch) for batch in islice(batches, BATCHES)] == expected
        assert batches.position == BATCHES


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumes_with_any_number_of_workers(expected, workers):
    with training(workers=workers, threads=1, position=POSITION) as batches:
        assert [digest(batch) for batch in islice(batches, 20)] == expected[POSITION : POSITION + 20]


@pytest.mark.parametrize("position", [0, POSITION])
def test_two_processes_hold_consecutive_parts_of_every_batch(expected, position):
    """Also if a run of one process is resumed with two."""
    parts = [training(process=(index, 2), position=position) for index in range(2)]
    for wanted in expected[position:]:
        halves = [next(part) for part in parts]
        joined = {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
        assert digest(joined) == wanted
