"""--mode=check_data finds problems that only the whole dataset shows."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from camvid_source import COUNTS, SIZE, VOID, Tree, check, encoded, found_in, label_of

from cpnet_jax.data import large_images
from cpnet_jax.data.builders.base import SegmentationBuilder
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.data.doctor.scan import MOST_UNKNOWN


def whole(tmp_path: Path, relabel: Callable[[np.ndarray], np.ndarray]) -> dict[str, dict[str, str]]:
    """Return what is found in a tree of such labels, except findings about its size."""
    found = found_in(check(Tree(tmp_path / "raw", relabel).root, tmp_path))
    return {kind: where for kind, where in found.items() if kind != "split_size"}


def test_a_clean_tree_is_sound(tmp_path):
    assert whole(tmp_path, lambda label: label) == {}


def test_flat_images_of_different_shapes_are_not_duplicates(tmp_path):
    tree = Tree(tmp_path / "raw")
    for name, size in (("train/high", (96, 64)), ("val/wide", SIZE)):
        tree.add(name, image=encoded(np.zeros((*size, 3), np.uint8)), label=encoded(np.resize(label_of(0), size)))
    assert set(found_in(check(tree.root, tmp_path))) == {"split_size"}


def test_labels_without_void_are_sound(tmp_path):
    assert whole(tmp_path, lambda label: label % VOID) == {}


@pytest.mark.parametrize(
    ("relabel", "where", "detail"),
    [
        (lambda label: label + 1, "values 1 to 12", "one lower"),
        (lambda label: np.where(label == VOID, 0, label + 1) + (label == 10), "values 0 to 12", "one lower"),
        (lambda label: np.where(label == VOID, 255, label), "value 255", "unknown here"),
        (lambda label: np.maximum(label, 1), "value 0", "first class"),
        (lambda label: np.minimum(label, 9), "value 10", "last class"),
    ],
)
def test_shifted_labels_and_unknown_void_are_found(tmp_path, relabel, where, detail):
    found = whole(tmp_path, lambda label: relabel(label.astype(int)).astype(np.uint8))
    assert detail in found["off_by_one"][where]


def test_a_photo_in_a_labels_place_does_not_fill_the_memory_with_its_values(tmp_path):
    photo = np.arange(SIZE[0] * SIZE[1]).astype(np.uint8).reshape(SIZE)
    found = whole(tmp_path, lambda label: photo)
    listed = found["unknown_values"]["trainannot/0.png"].split(", ")
    unknown = 256 - len(CAMVID.classes) - 1
    assert len(listed) == MOST_UNKNOWN + 1 and listed[-1] == f"and {unknown - MOST_UNKNOWN} more"


def test_large_labels_are_decoded_one_after_the_other(tmp_path, monkeypatch):
    at_once, most, lock = [0], [0], threading.Lock()
    read = SegmentationBuilder.read_label

    def watched(*arguments):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        with lock:
            at_once[0] -= 1
        return read(*arguments)

    monkeypatch.setattr(SegmentationBuilder, "read_label", watched)
    monkeypatch.setattr(large_images, "MOST", SIZE[0] * SIZE[1])
    whole(tmp_path, lambda label: label)
    assert most[0] == 1


def test_void_saved_as_class_0_is_found_by_its_thin_lines(tmp_path):
    def outlined(label):
        label = np.where(label == 0, 1, label)
        label[::16], label[:, ::16] = 0, 0
        return label

    assert "sky" in whole(tmp_path, outlined)["zero_outlines"]["value 0"]


def test_missing_classes_are_found(tmp_path):
    places = iter(range(100))

    def relabel(label):
        train = next(places) < COUNTS["train"]
        label = np.where(label == 5, 4, label)  # never
        return np.where((label == 7) & train, 4, label)  # in val only

    found = whole(tmp_path, relabel)
    assert set(found) == {"class_never_seen", "class_not_trained"}
    assert set(found["class_never_seen"]) == {"tree"}
    assert found["class_not_trained"] == {"fence": f"{COUNTS['val'] * 512} pixels in val"}


def test_a_class_of_few_pixels_is_found(tmp_path):
    places = iter(range(100))

    def relabel(label):
        label = np.where(label == 8, 4, label)
        label[0, 0] = 8 if next(places) in (0, 7) else 4  # one pixel in train, one in val
        return label

    assert "1 pixels" in whole(tmp_path, relabel)["class_rare"]["car"]


def test_labels_without_any_labelled_pixel_are_a_fault(tmp_path):
    found = whole(tmp_path, lambda label: np.full_like(label, VOID))
    assert set(found["no_labels"]) == {"train", "val"} and len(found["all_ignored"]) == sum(COUNTS.values())
