"""Parsing the names of TPU slices."""

import pytest

from cpnet_jax.errors import UserError
from cpnet_jax.plan import topologies
from cpnet_jax.plan.gpus import CARDS


@pytest.mark.parametrize(
    ("name", "chips"), [("v5e:16x16", 256), ("v4:2x2x4", 16), ("v5p:8x8x16", 1024), ("v6e:2x4", 8)]
)
def test_a_name_is_parsed_and_formatted_back(name, chips):
    topology = topologies.parse(name)
    assert (topology.name, topology.chips) == (name, chips)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e", "a TPU chip and a shape"),
        ("v5e:4x", "a TPU chip and a shape"),
        ("v7:4x4", "v4, v5e, v5p, v6e"),
        ("v5e:3x5", "4x4"),
        ("v5e:32x32", "16x16"),
        ("v5e:2x2x2", "2x2"),
        ("v4:4x4", "2x2x4"),
        ("v4:2x2x8", "multiples of 4"),
        ("v4:0x4x4", "multiples of 4"),
        ("v4:16x16x32", "at most 4096 chips"),
    ],
)
def test_an_impossible_slice_is_refused_with_the_flags_name(name, said):
    with pytest.raises(UserError, match=said) as error:
        topologies.parse(name)
    assert f"--topology is {name}".replace("'", "") in str(error.value).replace("'", "")


@pytest.mark.parametrize(("name", "count"), [("h100:8", 8), ("h200:1", 1), ("a100:4", 4), ("l4:2", 2)])
def test_gpus_of_a_machine_are_parsed_and_formatted_back(name, count):
    machine = topologies.parse(name)
    assert (machine.name, machine.chips) == (name, count)


@pytest.mark.parametrize("name", ["h100", "h100:3", "h100:16", "h100:2x4", "l4:"])
def test_impossible_gpus_are_refused_with_the_flags_name(name):
    with pytest.raises(UserError, match=f"--topology is '{name}'.*h100:8"):
        topologies.parse(name)


def test_float32_units_and_clocks_give_the_float32_peaks():
    """A unit multiplies and adds once a clock; the data sheets' peaks assume nearly the highest clock."""
    for card in CARDS.values():
        assert 2 * card.operations == pytest.approx(card.peaks["f32"], rel=0.01), card.name


def test_clocks_follow_from_the_peaks():
    """The clocks, in GHz, that Google's documentation or papers state."""
    clocks = {name: round(chip.clock / 1e9, 2) for name, chip in topologies.CHIPS.items()}
    assert clocks == {"v4": 1.05, "v5e": 1.5, "v5p": 1.75, "v6e": 1.75}
