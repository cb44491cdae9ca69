"""Time, memory and communication of a compiled step."""

import dataclasses

import pytest
from plan.steps import EXCHANGES, FORWARD, compiled, exchange

from cpnet_jax.plan.figures import TpuFigures, Traffic, all_reduce_seconds
from cpnet_jax.plan.topologies import CHIPS

V5E = CHIPS["v5e"]


def test_seconds_are_cycles_over_the_clock_and_bytes_over_the_links():
    step = TpuFigures(V5E, compiled(cycles=int(V5E.clock)))
    assert step.compute == pytest.approx(1.0, rel=1e-6)
    assert step.seconds(1) == step.compute
    assert step.seconds(4) == pytest.approx(step.compute + 2 * step.exchanged * 3 / 4 / V5E.interconnect)
    assert step.images_per_second(1) == pytest.approx(2.0, rel=1e-6)
    assert step.utilization(1) == pytest.approx(2e9 / V5E.peak, rel=1e-6)


def test_gradients_statistics_and_scalars_are_distinguished():
    step = TpuFigures(V5E, compiled())
    assert step.traffic == [
        Traffic("all-reduce", "BatchNorm statistics", 2, 2 * 64 * 4 + 512 * 512 * 4),
        Traffic("all-reduce", "gradients", 2, 3 * 3 * 64 * 128 * 2 + 64 * 4 + 512 * 11 * 2),
        Traffic("all-reduce", "scalars", 2, 8),
    ]
    assert all(group.expected for group in step.traffic)
    assert step.exchanged == sum(group.bytes for group in step.traffic)


def test_a_batch_norms_gradients_per_position_of_a_block_are_gradients():
    step = TpuFigures(V5E, compiled(exchanges=[exchange("f32[4,64]{1,0}")]))
    assert [group.content for group in step.traffic] == ["gradients"]


@pytest.mark.parametrize(
    "surprise",
    [
        exchange("bf16[32,60,60,512]{3,2,1,0}"),  # activations
        exchange("f32[3,3,64,128]{3,2,1,0}", kind="all-gather"),
        exchange("f32[64]{0}", kind="all-to-all"),
        exchange("f32[64,128]{1,0}", FORWARD),  # a matrix that is no covariance
    ],
)
def test_any_other_exchange_is_unexpected(surprise):
    step = TpuFigures(V5E, compiled(exchanges=[*EXCHANGES, surprise]))
    assert len([group for group in step.traffic if not group.expected]) == 1


@pytest.mark.parametrize("batch", [100, 700])
def test_memory_adds_up_to_the_compilers_total(batch):
    """Also if the program does not use all of its arguments, of 1000 bytes."""
    step = dataclasses.replace(compiled(gib=3.0), batch=batch)
    assert sum(TpuFigures(V5E, step).memory().values()) == step.total == pytest.approx(3 * 2**30, abs=1)


def test_an_all_reduce_sends_nearly_twice_its_bytes_and_between_slices_each_chip_its_share():
    size = 10**8
    assert all_reduce_seconds(size, V5E, 1) == 0
    assert all_reduce_seconds(size, V5E, 2) == size / V5E.interconnect
    within = all_reduce_seconds(size, V5E, 256)
    assert within == pytest.approx(2 * size * 255 / 256 / V5E.interconnect)
    across = all_reduce_seconds(size, V5E, 1024) - within
    assert across == pytest.approx(2 * size / 256 * 3 / 4 / V5E.data_center)
    # A v4 slice may have 4,096 chips, so that one is enough.
    assert all_reduce_seconds(size, CHIPS["v4"], 1024) < 2 * size / CHIPS["v4"].interconnect
