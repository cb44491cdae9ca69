"""Labels of other data become a network's classes by name."""

import numpy as np
import pytest

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.catalog.voc import voc_palette
from cpnet_jax.data.class_matching import match_classes
from cpnet_jax.errors import UserError


def dataset(*classes):
    return Dataset("some", classes, voc_palette(len(classes)))


def as_names(matching, data, network):
    """Class of the data -> class of the network, or None if it is ignored."""
    named = {**dict(enumerate(network.classes)), network.ignore_label: None}
    return {name: named[int(matching.table[label])] for label, name in enumerate(data.classes)}


def test_classes_match_by_name_in_any_order_and_the_rest_is_ignored_or_missing():
    data, network = dataset("tree", "sky", "lake"), dataset("sky", "road", "tree")
    found = match_classes(data, network)
    assert as_names(found, data, network) == {"tree": "tree", "sky": "sky", "lake": None}
    assert (found.unknown, found.missing) == (("lake",), ("road",))
    label = np.array([[0, 1, 2, 255]], np.uint8)
    assert found.apply(label).tolist() == [[2, 0, 255, 255]]
    unknown, missing = found.notes()
    assert unknown.startswith("Note: ") and "lake" in unknown and "ignored" in unknown
    assert missing.startswith("Note: ") and "road" in missing and "wrong" in missing


def test_equal_classes_are_left_as_they_are():
    data = dataset("sky", "road")
    found = match_classes(data, data)
    assert found.table.tolist() == [0, 1] + [255] * 254 and not found.notes()


@pytest.mark.parametrize("name", ["Traffic Light", "traffic_light", "TRAFFIC-LIGHT", " traffic  light"])
def test_spellings_of_a_name_are_the_same_class(name):
    data, network = dataset("sky", name), dataset("traffic light", "sky")
    assert as_names(match_classes(data, network), data, network) == {"sky": "sky", name: "traffic light"}


def test_an_equal_name_comes_before_one_that_is_alike():
    data, network = dataset("Car", "car", "sky"), dataset("car", "sky")
    assert as_names(match_classes(data, network), data, network) == {"Car": None, "car": "car", "sky": "sky"}


def test_several_classes_can_be_one_of_the_network():
    data, network = dataset("auto", "lorry", "sky"), dataset("sky", "vehicle")
    found = match_classes(data, network, (("auto", "vehicle"), ("lorry", "vehicle")))
    assert as_names(found, data, network) == {"auto": "vehicle", "lorry": "vehicle", "sky": "sky"}
    assert not found.notes()


def test_no_class_in_common_is_refused_with_pairs_that_work():
    data, network = dataset("auto", "lorry"), dataset("sky", "vehicle")
    with pytest.raises(UserError) as caught:
        match_classes(data, network)
    message = str(caught.value)
    assert "auto, lorry" in message and "sky, vehicle" in message and "\n" not in message
    advised = message.split('"')[1]
    assert advised == "(('auto', 'sky'),)"
    match_classes(data, network, (("auto", "sky"),))


@pytest.mark.parametrize(("pair", "whose"), [(("car", "sky"), "data"), (("sky", "auto"), "network")])
def test_a_pair_of_a_name_that_is_no_class_is_refused(pair, whose):
    with pytest.raises(UserError, match=f"is not a class of the {whose}"):
        match_classes(dataset("sky", "auto"), dataset("sky", "car"), (pair,))


def test_a_long_list_of_names_stays_short():
    data, network = dataset("sky", *(f"d{i}" for i in range(40))), dataset("sky", *(f"n{i}" for i in range(150)))
    assert all("and " in note and len(note) < 300 for note in match_classes(data, network).notes())
