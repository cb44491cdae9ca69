"""Windows cover every pixel, and batching them across images changes nothing but the speed."""

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from cpnet_jax.inference.windows import predict, window_offsets

CLASSES = 6
FILL = (123.675, 116.28, 103.53)
CROP = (12, 18)
# Smaller than the crop, equal, larger, in one direction or both, odd.
SIZES = [(12, 18), (5, 7), (1, 1), (13, 18), (12, 19), (30, 11), (7, 47), (31, 53), (12, 18), (24, 36), (20, 30)]


def make_examples(sizes=SIZES) -> list[dict]:
    rng = np.random.default_rng(0)
    return [{"id": i, "image": rng.integers(0, 256, (*size, 3)).astype(np.uint8)} for i, size in enumerate(sizes)]


def probabilities(windows: np.ndarray) -> np.ndarray:
    """A network whose scores depend on the colour, its neighbour and the place in the window, not convolutionally.

    Small integers: sums are exact in any order and precision, and ties are broken alike.
    """
    rows, columns = np.mgrid[: windows.shape[1], : windows.shape[2]]
    colours = windows.astype(np.int64)
    mixed = colours[..., 0] + 3 * colours[..., 1] + 7 * np.roll(colours[..., 2], 1, axis=2) + rows**2 + 5 * columns
    return np.stack([mixed * (2 * k + 1) // 4 % 97 for k in range(CLASSES)], -1).astype(np.float32)


def slow_starts(size: int, crop: int) -> list[int]:
    """Every 2/3 crop as long as a window fits, and one at the very end."""
    last = max(size - crop, 0)
    return sorted({*range(0, last, 2 * crop // 3), last})


def slow_predict(image: np.ndarray) -> np.ndarray:
    """One image, one window at a time, in float64."""
    height, width = image.shape[:2]
    padded = np.empty((max(height, CROP[0]), max(width, CROP[1]), 3), np.uint8)
    padded[:] = (124, 116, 104)
    padded[:height, :width] = image
    scores = np.zeros((*padded.shape[:2], CLASSES))
    for top in slow_starts(height, CROP[0]):
        for left in slow_starts(width, CROP[1]):
            window = np.s_[top : top + CROP[0], left : left + CROP[1]]
            scores[window] += probabilities(padded[window][None])[0]
    return scores[:height, :width].argmax(-1)


def run(examples, batch_size: int, network=probabilities) -> Iterator:
    return predict(network, examples, crop_size=CROP, batch_size=batch_size, fill=FILL)


@pytest.mark.parametrize("crop", [1, 2, 3, 8, 12, 64, 480, 512])
def test_offsets_cover_every_pixel_with_stride_two_thirds_and_end_flush(crop):
    stride = max(2 * crop // 3, 1)
    for size in {*range(1, 60), crop - 1, crop, crop + 1, crop + stride, crop + stride + 1, 3 * crop + 1, 2048} - {0}:
        offsets = window_offsets(size, crop)
        covered = np.zeros(max(size, crop), bool)
        for start in offsets:
            assert 0 <= start <= max(size - crop, 0)
            covered[start : start + crop] = True
        assert covered.all()
        if size <= crop:
            assert offsets == [0]
        else:
            assert offsets[-1] == size - crop
            assert set(np.diff(offsets[:-1])) <= {stride}
            assert 0 < offsets[-1] - offsets[-2] <= stride


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [(480, 480, [0]), (100, 480, [0]), (481, 480, [0, 1]), (800, 480, [0, 320]), (801, 480, [0, 320, 321])],
)
def test_offsets_of_known_cases(size, crop, expected):
    assert window_offsets(size, crop) == expected


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 64])
def test_prediction_equals_one_window_at_a_time(batch_size):
    examples = make_examples()
    results = list(run(examples, batch_size))
    assert [example["id"] for example, _ in results] == list(range(len(SIZES)))
    for given, (example, predicted) in zip(examples, results, strict=True):
        assert example is given
        assert predicted.dtype == np.uint8 and predicted.shape == given["image"].shape[:2]
        assert np.array_equal(predicted, slow_predict(given["image"]))


def test_images_are_left_as_they_were():
    examples = make_examples()
    copies = [example["image"].copy() for example in examples]
    for example in examples:
        example["image"].flags.writeable = False
    list(run(examples, 3))
    assert all(np.array_equal(example["image"], copy) for example, copy in zip(examples, copies, strict=True))


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_batches_are_full_and_no_more_than_needed(batch_size):
    shapes = []

    def noting(windows):
        shapes.append((windows.shape, windows.dtype))
        return probabilities(windows)

    list(run(make_examples(), batch_size, noting))
    windows = sum(len(slow_starts(h, CROP[0])) * len(slow_starts(w, CROP[1])) for h, w in SIZES)
    assert set(shapes) == {((batch_size, *CROP, 3), np.dtype(np.uint8))}
    assert len(shapes) == -(-windows // batch_size)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("size", [(10, 10), (30, 40)])
def test_examples_are_taken_as_needed_and_let_go(batch_size, size):
    """A validation set does not fit into memory, nor do its scores."""
    images, taken = [], 0

    def source():
        nonlocal taken
        for example in range(30):
            image = np.full((*size, 3), example, np.uint8)
            images.append(weakref.ref(image))
            taken += 1
            yield {"image": image}
            del image

    for done, _ in enumerate(run(source(), batch_size)):
        assert taken <= done + 1 + batch_size
        gc.collect(0)
        assert sum(image() is not None for image in images) <= batch_size + 2
    assert taken == 30


def test_no_examples_give_no_predictions():
    assert list(run([], 4)) == []
