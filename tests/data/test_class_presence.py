"""The classes of each record are found once and cached with the records."""

import cv2
import numpy as np
import pytest

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.class_presence import cache_file, check_labelled, find_class_presence
from cpnet_jax.errors import UserError

DATASET = Dataset("three", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def record(name: str, values: list[int]) -> dict:
    return {"id": name, "image": b"", "label": cv2.imencode(".png", np.array([values], np.uint8))[1].tobytes()}


RECORDS = [record("x", [0, 0, 2]), record("y", [255, 255, 255]), record("z", [1, 255, 1])]
EXPECTED = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)


def test_class_presence_follows_the_labels_and_the_ignored_label_is_not_a_class(tmp_path):
    assert np.array_equal(find_class_presence(RECORDS, DATASET, tmp_path / "p.npy"), EXPECTED)


def test_labels_are_decoded_once(tmp_path):
    cache = cache_file(tmp_path, "train")
    find_class_presence(RECORDS, DATASET, cache)
    assert [path.name for path in tmp_path.iterdir()] == [cache.name]
    unreadable = [{"id": "x", "image": b"", "label": b""}] * 3
    assert np.array_equal(find_class_presence(unreadable, DATASET, cache), EXPECTED)


def test_every_split_has_its_own_cache_file(tmp_path):
    splits = ["train", "val", "train[:50]", "train[50:]", "train[:50%]", "train+val"]
    files = {cache_file(tmp_path, split) for split in splits}
    assert len(files) == len(splits) and {file.parent for file in files} == {tmp_path}


def test_a_cache_that_cannot_be_written_is_skipped(tmp_path):
    (tmp_path / "file").touch()
    assert np.array_equal(find_class_presence(RECORDS, DATASET, tmp_path / "file" / "p.npy"), EXPECTED)


def test_whoever_may_read_the_records_may_read_the_cache(tmp_path):
    (tmp_path / "records").touch()
    find_class_presence(RECORDS, DATASET, tmp_path / "p.npy")
    assert (tmp_path / "p.npy").stat().st_mode == (tmp_path / "records").stat().st_mode


def test_a_bad_label_is_named_and_nothing_is_cached(tmp_path):
    with pytest.raises(UserError, match="bad"):
        find_class_presence([*RECORDS, record("bad", [0, 7, 1])], DATASET, tmp_path / "p.npy")
    assert not list(tmp_path.iterdir())


def test_skipped_bad_labels_show_no_class_and_are_reported_every_time(tmp_path):
    records = [RECORDS[0], record("bad", [0, 3, 0]), RECORDS[2]]
    for _ in range(2):
        reported = []
        found = find_class_presence(records, DATASET, tmp_path / "p.npy", on_unreadable=reported.append)
        assert np.array_equal(found, [EXPECTED[0], [False] * 3, EXPECTED[2]])
        assert len(reported) == 1 and "bad" in reported[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: np.save(cache, EXPECTED[:2]),
        lambda cache: np.save(cache, EXPECTED.astype(int)),
        lambda cache: np.save(cache, np.array([{}]), allow_pickle=True),
        lambda cache: cache.write_bytes(b""),
        lambda cache: cache.write_bytes(cache.read_bytes()[:-1]),
        lambda cache: cache.write_bytes(cache.read_bytes().replace(b"(3, 3)", b"(9999999999999, 3)")),
        lambda cache: np.savez(cache.open("wb"), EXPECTED),
    ],
    ids=["other records", "other type", "pickle", "empty", "cut off", "huge", "archive"],
)
def test_a_cache_that_does_not_fit_the_records_is_made_again(tmp_path, damage):
    cache = cache_file(tmp_path, "train")
    find_class_presence(RECORDS, DATASET, cache)
    damage(cache)
    assert np.array_equal(find_class_presence(RECORDS, DATASET, cache), EXPECTED)
    assert np.array_equal(np.load(cache), EXPECTED)


def test_a_split_of_one_class_is_noted_and_one_of_none_refused():
    nothing, one = record("y", [255, 255]), record("z", [255, 2])
    assert check_labelled([nothing, one, RECORDS[0]], DATASET, "train") == ""
    assert check_labelled([nothing, one, one], DATASET, "train").endswith("shows no other class than 'c'")
    with pytest.raises(UserError, match="every pixel of split 'val' of three is ignored"):
        check_labelled([nothing, nothing], DATASET, "val")


def test_unreadable_labels_are_left_to_the_stream():
    assert check_labelled([record("y", [255, 255]), record("bad", [7])], DATASET, "train") == ""
