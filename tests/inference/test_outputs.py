"""Written predictions are read correctly by every common reader and are never half written."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cpnet_jax.data.catalog import ADE20K, CAMVID
from cpnet_jax.data.pictures import colourise, overlay
from cpnet_jax.errors import UserError
from cpnet_jax.inference import outputs
from cpnet_jax.inference.inputs import InputImage
from cpnet_jax.inference.outputs import MAX_OVERLAY, PredictionWriter, overlay_picture

SIZE = (300, 400)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
CLASSES = RNG.integers(0, 11, (15, 20)).astype(np.uint8).repeat(20, 0).repeat(20, 1)


def source(name):
    return InputImage(Path(f"{name}.png"), name)


def softmax(size: tuple[int, ...]) -> np.ndarray:
    scores = np.exp(3 * RNG.normal(size=size)).astype(np.float32)
    return scores / scores.sum(axis=-1, keepdims=True)


def files_below(folder):
    """All files except predictions.json."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(found - {"predictions.json"})


def test_every_reader_finds_the_class_indices(tmp_path):
    classes = (np.arange(12_000) % 150).reshape(100, 120).astype(np.uint8)
    image = np.zeros((100, 120, 3), np.uint8)
    with PredictionWriter(tmp_path, ADE20K, description={}) as writer:
        writer.write(source("a"), image, classes)
    path = tmp_path / "classes" / "a.png"
    assert Image.open(path).mode == "L"
    assert np.array_equal(np.asarray(Image.open(path)), classes)
    for flags in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE):
        assert np.array_equal(cv2.imread(str(path), flags), classes)


def test_probabilities_come_with_their_classes_and_agree_with_the_indices(tmp_path):
    probabilities = softmax((30, 40, 11))
    classes = probabilities.argmax(-1).astype(np.uint8)
    with PredictionWriter(tmp_path, CAMVID, description={}, overlays=False) as writer:
        writer.write(source("a"), IMAGE[:30, :40], classes, probabilities)
    with np.load(tmp_path / "probabilities" / "a.npz") as found:
        assert tuple(found["classes"]) == CAMVID.classes
        assert found["probabilities"].dtype == np.float16
        np.testing.assert_allclose(found["probabilities"], probabilities, rtol=1e-3, atol=1e-7)
        stored = np.asarray(Image.open(tmp_path / "classes" / "a.png"))
        np.testing.assert_array_equal(
            np.take_along_axis(found["probabilities"], stored[..., None].astype(int), -1)[..., 0],
            found["probabilities"].max(-1),
        )


def test_only_requested_files_are_written_and_names_keep_their_folders_and_dots(tmp_path):
    with PredictionWriter(tmp_path / "plain", CAMVID, description={}, overlays=False) as writer:
        for name in ("day/one", "night/one", "v1.2"):
            writer.write(source(name), IMAGE, CLASSES)
    assert files_below(tmp_path / "plain") == ["classes/day/one.png", "classes/night/one.png", "classes/v1.2.png"]
    with PredictionWriter(tmp_path / "all", CAMVID, description={}) as writer:
        writer.write(source("one"), IMAGE, CLASSES, softmax((*SIZE, 11)))
    assert files_below(tmp_path / "all") == ["classes/one.png", "overlays/one.png", "probabilities/one.npz"]


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "mine.png").write_text("mine")
    (tmp_path / "classes" / "a.png").write_text("old")
    with PredictionWriter(tmp_path, CAMVID, description={}, overlays=False) as writer:
        writer.write(source("a"), IMAGE, CLASSES)
    assert (tmp_path / "classes" / "mine.png").read_text() == "mine"
    assert np.array_equal(cv2.imread(str(tmp_path / "classes" / "a.png"), -1), CLASSES)


def test_a_write_that_fails_leaves_the_old_file_and_stops_the_run(tmp_path, monkeypatch):
    (tmp_path / "probabilities").mkdir()
    old = tmp_path / "probabilities" / "a.npz"
    old.write_text("old")

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs.np, "savez_compressed", full)
    with (
        pytest.raises(UserError, match="No space left") as caught,
        PredictionWriter(tmp_path, CAMVID, description={}, overlays=False) as writer,
    ):
        writer.write(source("a"), IMAGE, CLASSES, softmax((*SIZE, 11)))
    assert str(tmp_path) in str(caught.value)
    assert old.read_text() == "old" and files_below(tmp_path) == ["classes/a.png", "probabilities/a.npz"]


def test_writing_is_asynchronous_but_a_slow_disk_blocks_the_caller(tmp_path, monkeypatch):
    gate, begun, handed_over = threading.Event(), threading.Semaphore(0), []

    def slow(path, pixels):
        begun.release()
        assert gate.wait(10)

    monkeypatch.setattr(outputs, "write_png", slow)
    with PredictionWriter(tmp_path, CAMVID, description={}, overlays=False, threads=1) as writer:

        def hand_over():
            for index in range(5):
                writer.write(source(str(index)), IMAGE, CLASSES)
                handed_over.append(index)

        caller = threading.Thread(target=hand_over)
        caller.start()
        assert begun.acquire(timeout=10)
        caller.join(0.2)
        assert caller.is_alive() and handed_over == [0], "one is being written, one waits, no more are taken"
        gate.set()
        caller.join(10)
    assert handed_over == list(range(5))


def test_the_overlay_is_the_image_under_the_classes_colours_with_a_legend_below():
    drawn = overlay_picture(IMAGE, CLASSES, CAMVID)
    expected = overlay(IMAGE, colourise(CLASSES, CAMVID.palette, CAMVID.ignore_label))
    assert np.array_equal(drawn[: SIZE[0], : SIZE[1]], expected)
    below = drawn[SIZE[0] :].reshape(-1, 3)
    for colour in CAMVID.palette:
        assert (below == colour).all(-1).sum() > 100


def test_the_legend_names_only_visible_classes_largest_first():
    classes = np.full(SIZE, 8, np.uint8)
    classes[:50] = 3
    drawn = overlay_picture(IMAGE, classes, CAMVID)[SIZE[0] :]
    places = [np.flatnonzero((drawn == CAMVID.palette[index]).all(-1).any(0)) for index in (8, 3)]
    assert places[0][0] < places[1][0]
    assert not (drawn == CAMVID.palette[0]).all(-1).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 40), (2, 5000), (5000, 2), (1, 70_000), (2500, 3000)])
def test_overlays_of_any_size_are_drawn(size):
    drawn = overlay_picture(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), CAMVID)
    assert max(drawn.shape) <= MAX_OVERLAY + 50
    assert drawn.shape[1] >= outputs.MIN_LEGEND
