"""The confusion matrix and the metrics equal their definitions, computed pixel by pixel."""

import numpy as np
import pytest

from cpnet_jax.evaluation.confusion import confusion_matrix, without_class
from cpnet_jax.evaluation.metrics import compute_all

CLASSES, IGNORED = 5, 255


def random_pair(seed: int, shape=(9, 13), present=range(CLASSES)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice([*present, IGNORED], shape).astype(np.uint8)
    guess = rng.integers(0, CLASSES, shape)
    return label, np.where((rng.random(shape) < 0.5) & (label != IGNORED), label, guess).astype(np.uint8)


def slow_counts(label: np.ndarray, prediction: np.ndarray) -> list[list[int]]:
    counts = [[0] * CLASSES for _ in range(CLASSES)]
    for true, predicted in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if true != IGNORED:
            counts[true][predicted] += 1
    return counts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_counts_are_pixels_by_true_and_predicted_class(seed, dtype):
    label, prediction = random_pair(seed)
    counts = confusion_matrix(label.astype(dtype), prediction.astype(dtype), CLASSES, IGNORED)
    assert counts.tolist() == slow_counts(label, prediction)
    assert counts.dtype == np.int64
    assert counts.sum() == (label != IGNORED).sum()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("present", [range(CLASSES), (0, 3), (4,)])
def test_metrics_equal_intersections_over_unions_of_pixel_sets(seed, present):
    label, prediction = random_pair(seed, present=present)
    found = compute_all(confusion_matrix(label, prediction, CLASSES, IGNORED))
    seen = label != IGNORED
    ious, accuracies, dices, weighted = [], [], [], 0
    for k in range(CLASSES):
        true, predicted = seen & (label == k), seen & (prediction == k)
        if k not in present:
            assert np.isnan([found["per_class"][k], found["per_class_accuracy"][k], found["per_class_dice"][k]]).all()
            continue
        ious.append((true & predicted).sum() / (true | predicted).sum())
        accuracies.append((true & predicted).sum() / true.sum())
        dices.append(2 * (true & predicted).sum() / (true.sum() + predicted.sum()))
        weighted += ious[-1] * true.sum() / seen.sum()
        of_class = [found["per_class"][k], found["per_class_accuracy"][k], found["per_class_dice"][k]]
        assert of_class == pytest.approx([ious[-1], accuracies[-1], dices[-1]], rel=1e-12)
    assert found["mIoU"] == pytest.approx(np.mean(ious), rel=1e-12)
    assert found["mean_accuracy"] == pytest.approx(np.mean(accuracies), rel=1e-12)
    assert found["mean_dice"] == pytest.approx(np.mean(dices), rel=1e-12)
    assert found["pixel_accuracy"] == pytest.approx((label == prediction)[seen].mean(), rel=1e-12)
    assert found["frequency_weighted_IoU"] == pytest.approx(weighted, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 19, 150, 254])
def test_many_classes_do_not_overflow_small_label_types(classes):
    label = np.arange(classes, dtype=np.uint8)
    assert np.array_equal(confusion_matrix(label, label[::-1], classes, IGNORED), np.eye(classes)[::-1])


def test_a_known_case():
    found = compute_all(np.array([[3, 1], [2, 4]]))
    assert found["per_class"].tolist() == pytest.approx([3 / 6, 4 / 7])
    assert found["mean_accuracy"] == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert found["pixel_accuracy"] == pytest.approx(0.7)
    assert found["per_class_dice"].tolist() == pytest.approx([6 / 9, 8 / 11])
    assert found["frequency_weighted_IoU"] == pytest.approx(0.4 * 3 / 6 + 0.6 * 4 / 7)


def test_ignored_pixels_do_not_count_whatever_is_predicted_there():
    label, prediction = random_pair(0)
    expected = confusion_matrix(label, prediction, CLASSES, IGNORED)
    for anything in (0, CLASSES - 1, CLASSES, 254, IGNORED):
        painted = np.where(label == IGNORED, anything, prediction).astype(np.uint8)
        assert np.array_equal(confusion_matrix(label, painted, CLASSES, IGNORED), expected)
    other = np.where(label == IGNORED, 99, label)
    assert np.array_equal(confusion_matrix(other, prediction, CLASSES, 99), expected)


@pytest.mark.parametrize("value", [CLASSES, CLASSES + 1, 254, -1])
@pytest.mark.parametrize("where", ["label", "prediction"])
def test_a_value_that_is_not_a_class_raises_instead_of_counting(value, where):
    pair = {name: array.astype(np.int64) for name, array in zip(("label", "prediction"), random_pair(1), strict=True)}
    pair["label"][2, 3] = 0
    pair[where][2, 3] = value
    with pytest.raises(ValueError, match=where):
        confusion_matrix(pair["label"], pair["prediction"], CLASSES, IGNORED)


@pytest.mark.parametrize("value", [CLASSES, 254])
def test_a_value_that_is_not_a_class_raises_in_uint8_too(value):
    label, prediction = random_pair(1)
    label[0, 0] = value
    with pytest.raises(ValueError, match="label"):
        confusion_matrix(label, prediction, CLASSES, IGNORED)


@pytest.mark.parametrize("shape", [(13, 9), (9, 12), (117,), (1, 9, 13)])
def test_a_prediction_of_another_shape_raises(shape):
    label, _ = random_pair(0)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(label, np.zeros(shape, np.uint8), CLASSES, IGNORED)


def test_an_unlabelled_image_counts_nothing():
    label = np.full((4, 4), IGNORED, np.uint8)
    counts = confusion_matrix(label, np.zeros_like(label), CLASSES, IGNORED)
    assert counts.shape == (CLASSES, CLASSES) and not counts.any()
    found = compute_all(counts)
    assert all(np.isnan(value).all() for value in found.values())


def test_a_class_predicted_but_not_labelled_is_not_in_the_mean_and_costs_the_others():
    """Its IoU is NaN, not 0; its pixels are false negatives of their true class."""
    found = compute_all(np.array([[6, 0, 2], [0, 4, 0], [0, 0, 0]]))
    assert np.isnan(found["per_class"][2])
    assert found["per_class"][:2].tolist() == pytest.approx([6 / 8, 1])
    assert found["mIoU"] == pytest.approx((6 / 8 + 1) / 2)
    assert found["pixel_accuracy"] == pytest.approx(10 / 12)


def test_conventions_differ_in_absent_classes_only():
    """Class 2 is predicted but not labelled, class 3 neither; the IoUs of 0 and 1 are 3/4 and 1."""
    found = compute_all(np.array([[6, 0, 2, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert found["mIoU"] == pytest.approx(1.75 / 2)
    assert found["mIoU_labelled_or_predicted"] == pytest.approx(1.75 / 3)
    assert found["mIoU_absent_as_0"] == pytest.approx(1.75 / 4)
    assert found["mIoU_absent_as_1"] == pytest.approx(2.75 / 4)


def test_conventions_agree_if_every_class_is_labelled():
    found = compute_all(confusion_matrix(*random_pair(0), CLASSES, IGNORED))
    others = found["mIoU_labelled_or_predicted"], found["mIoU_absent_as_0"], found["mIoU_absent_as_1"]
    assert others == pytest.approx((found["mIoU"],) * 3, rel=1e-15)


@pytest.mark.parametrize("index", range(CLASSES))
def test_without_a_class_its_pixels_count_as_ignored(index):
    label, prediction = random_pair(0)
    counts = confusion_matrix(label, prediction, CLASSES, IGNORED)
    before = counts.copy()
    ignored = np.where(label == index, IGNORED, label)
    assert np.array_equal(without_class(counts, index), confusion_matrix(ignored, prediction, CLASSES, IGNORED))
    assert np.array_equal(counts, before)


def test_a_class_never_found_counts_as_zero():
    found = compute_all(np.array([[5, 0], [3, 0]]))
    assert found["per_class"].tolist() == pytest.approx([5 / 8, 0])
    assert found["mIoU"] == pytest.approx(5 / 16)


@pytest.mark.filterwarnings("error")
def test_absent_classes_raise_no_warnings():
    compute_all(np.zeros((3, 3), np.int64))
    compute_all(np.diag([1, 0, 0]))


def test_counts_are_exact_beyond_the_range_of_float32():
    one = confusion_matrix(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), 2, IGNORED)
    assert (one + 2**24)[0, 0] == 2**24 + 1
    assert (one + 2**40)[0, 0] == 2**40 + 1
    found = compute_all(np.array([[2**40, 2**38], [0, 2**40]], np.int64))
    assert found["per_class"].tolist() == pytest.approx([0.8, 0.8], rel=1e-15)
