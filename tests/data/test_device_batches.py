"""Batches are prefetched in the stream's order, and only those taken count."""

import threading
import time

import jax
import numpy as np
import pytest

from cpnet_jax import sharding
from cpnet_jax.data.device_batches import DeviceBatches
from cpnet_jax.data.stream import TrainStream
from cpnet_jax.errors import UserError


class Numbers(TrainStream):
    """A stream whose batches hold their own number; `bad` raises UserError, `held_back` waits for the gate."""

    def __init__(self, position=0, bad=None, held_back=None):
        self.position, self.bad, self.held_back = position, bad, held_back
        self.gate = threading.Event()
        self.unreadable = []
        self.closed = False
        self.threads = set()

    def __next__(self):
        self.threads.add(threading.get_ident())
        number = self.position
        if number == self.held_back:
            assert self.gate.wait(60), "the consumer waits for a batch that it has not asked for"
        self.position += 1
        if number == self.bad:
            raise UserError(f"example {number}")
        return {"image": np.full((8, 2), number), "label": np.full((8,), number)}

    def close(self):
        self.closed = True


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh()


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("start", [0, 40])
def test_order_is_kept_and_only_taken_batches_count(mesh, ahead, start):
    stream = Numbers(start)
    with DeviceBatches(mesh, stream, ahead=ahead) as batches:
        for taken in range(12):
            assert batches.position == start + taken
            wait_for(lambda taken=taken: stream.position == start + taken + ahead)  # before any batch is requested
            batch = next(batches)
            assert (np.asarray(batch["image"]) == start + taken).all()
            assert (np.asarray(batch["label"]) == start + taken).all()
            assert batch["image"].sharding == sharding.split(mesh)
    assert stream.closed and len(stream.threads) == 1


def test_the_step_does_not_wait_while_batches_are_ready(mesh):
    """The fourth batch is ready only after three were taken."""
    stream = Numbers(held_back=3)
    with DeviceBatches(mesh, stream, ahead=3) as batches:
        for _ in range(3):
            next(batches)
        stream.gate.set()
        next(batches)


def test_donating_a_batch_does_not_change_the_next(mesh):
    consume = jax.jit(lambda batch: jax.tree.map(lambda x: x + 1, batch), donate_argnums=0)
    with DeviceBatches(mesh, Numbers(), ahead=3) as batches:
        for number in range(6):
            assert (np.asarray(consume(next(batches))["image"]) == number + 1).all()


def test_an_error_is_raised_when_its_batch_is_requested(mesh):
    with DeviceBatches(mesh, Numbers(bad=3), ahead=2) as batches:
        for _ in range(3):
            next(batches)
        with pytest.raises(UserError, match="example 3"):
            next(batches)
        assert batches.position == 3
