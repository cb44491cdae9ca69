"""Cycles by part of the network."""

from collections import Counter

import pytest

from configs import ade20k
from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.plan import step
from cpnet_jax.plan.parts import PATTERNS, REST, by_part, part_of


@pytest.mark.parametrize(
    ("origin", "part"),
    [
        ("jit(run)/jvp(CPNet)/backbone/backbone._stem/stem2/bn/reduce_sum", "stem"),
        ("jit(run)/transpose(jvp(CPNet))/backbone/backbone._stem/select_and_scatter_add", "stem"),
        ("jit(run)/transpose(jvp(CPNet))/backbone/layer3_5/conv2/conv/conv_general_dilated", "res4"),
        ("jit(run)/jvp(CPNet)/context/context._aggregated/aggregation/reduce/conv/conv_general_dilated", "aggregation"),
        ("jit(run)/transpose(jvp(CPNet))/context/shard_map/while/body/closed_call/dot_general", "context prior"),
        ("jit(run)/jvp(CPNet)/context_module/pool0/conv/conv_general_dilated", "context module"),
        ("jit(run)/jvp(CPNet)/aux_head/conv/conv/conv_general_dilated", "auxiliary head"),
        ("jit(run)/jvp(CPNet)/head/classifier/dot_general", "head"),
        ("", REST),
    ],
)
def test_an_operation_is_assigned_to_a_part_by_its_name(origin, part):
    assert part_of(origin) == part


def test_every_cycle_counts_for_exactly_one_part():
    cycles = Counter({"a/layer1_0/add": 3, "b/layer1_2/add": 4, "(losses)/add": 5, "": 6})
    found = by_part(cycles)
    assert list(found) == [*PATTERNS, REST]
    assert {part: count for part, count in found.items() if count} == {"res2": 7, "losses": 5, REST: 6}


def test_the_operations_of_a_real_step_cover_every_part():
    config, mesh = ade20k.get_config(), sharding.make_mesh()
    config.data.crop_size = (64, 64)
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 16, 8
    config.model.context = "psp"
    state, batch = step._abstract_state(config, mesh), step._abstract_batch(config, mesh, 1)
    text = build.make_train_step(config, mesh).trace(state, batch).lower().as_text(debug_info=True)
    names = {line.split('"')[1] for line in text.splitlines() if line.startswith("#loc") and 'loc("jit' in line}
    assert {part_of(name) for name in names} == {*PATTERNS, REST}
