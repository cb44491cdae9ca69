"""An evaluation counts every image once at its own size, and reports it as strict JSON and as a table."""

import json

import numpy as np
import pytest

from cpnet_jax.data.catalog import DATASETS, Dataset
from cpnet_jax.evaluation.confusion import confusion_matrix, scores
from cpnet_jax.evaluation.evaluate import Evaluation, evaluate

TINY = Dataset(
    name="tiny",
    classes=("water", "sand", "umbrella stand", "sky"),
    palette=((0, 0, 255), (255, 255, 0), (255, 0, 0), (0, 255, 255)),
)
SIZES = [(5, 7), (1, 1), (12, 3), (8, 8), (5, 7)]


def make_predictions(present=(0, 1, 3)) -> list:
    """Pairs of all sizes; "umbrella stand" is never labelled but sometimes predicted."""
    rng = np.random.default_rng(0)
    return [
        (
            {"id": str(i), "label": rng.choice([*present, 255], size).astype(np.uint8)},
            rng.integers(0, 4, size).astype(np.uint8),
        )
        for i, size in enumerate(SIZES)
    ]


def test_evaluation_is_the_sum_over_all_images():
    predictions = make_predictions()
    evaluation = evaluate(iter(predictions), TINY)
    label = np.concatenate([example["label"].ravel() for example, _ in predictions])
    predicted = np.concatenate([predicted.ravel() for _, predicted in predictions])
    assert evaluation.images == len(SIZES)
    assert evaluation.confusion.dtype == np.int64
    assert np.array_equal(evaluation.confusion, confusion_matrix(label, predicted, 4))
    assert evaluation.scores.mean_iou == scores(evaluation.confusion).mean_iou


def test_the_datasets_ignore_label_is_what_is_ignored():
    dataset = Dataset("other", TINY.classes, TINY.palette, ignore_label=77)
    pair = {"label": np.array([[0, 77, 1]], np.uint8)}, np.array([[0, 0, 1]], np.uint8)
    assert evaluate([pair], dataset).confusion.sum() == 2


@pytest.mark.parametrize("value", [4, 254])
def test_a_label_that_is_no_class_stops_the_evaluation(value):
    predictions = make_predictions()
    predictions[2][0]["label"][0, 0] = value
    with pytest.raises(ValueError, match="label"):
        evaluate(predictions, TINY)


def test_a_prediction_of_another_size_stops_the_evaluation():
    with pytest.raises(ValueError, match="shape"):
        evaluate([({"label": np.zeros((4, 6), np.uint8)}, np.zeros((6, 4), np.uint8))], TINY)


def test_each_sees_every_prediction_in_order():
    predictions, seen = make_predictions(), []
    evaluate(iter(predictions), TINY, each=lambda place, prediction: seen.append((place, prediction[0]["id"])))
    assert seen == [(i, str(i)) for i in range(len(SIZES))]


def test_counting_is_exact_beyond_what_float32_can_count():
    """Cityscapes' validation split has 1e9 pixels; float32 stops at 2^24."""
    block = np.zeros((1024, 1024), np.uint8)
    pixel = np.zeros((1, 1), np.uint8)
    evaluation = evaluate([({"label": block}, block)] * 16 + [({"label": pixel}, pixel)] * 3, TINY)
    assert evaluation.confusion[0, 0] == 2**24 + 3
    assert evaluation.images == 19


def strict(evaluation: Evaluation, **settings) -> dict:
    """Through JSON and back; NaN raises."""
    return json.loads(json.dumps(evaluation.as_json(**settings), allow_nan=False))


def test_json_holds_the_figures_and_the_settings():
    evaluation = evaluate(make_predictions(), TINY)
    report, figures = strict(evaluation, step=7, window=[480, 480]), evaluation.scores
    assert report["mIoU"] == figures.mean_iou
    assert report["pixel_accuracy"] == figures.pixel_accuracy
    assert report["mean_accuracy"] == figures.mean_accuracy
    assert list(report["per_class"]) == list(TINY.classes)
    assert report["per_class"]["sky"] == figures.iou[3]
    assert report["images"] == len(SIZES)
    assert report["settings"] == {"step": 7, "window": [480, 480]}


def test_json_names_absent_classes_and_gives_them_null():
    report = strict(evaluate(make_predictions(), TINY))
    assert report["absent_classes"] == ["umbrella stand"]
    assert report["per_class"]["umbrella stand"] is None
    others = [report["per_class"][name] for name in ("water", "sand", "sky")]
    assert report["mIoU"] == pytest.approx(np.mean(others))


@pytest.mark.parametrize("predictions", [[], [({"label": np.full((2, 2), 255, np.uint8)}, np.zeros((2, 2), np.uint8))]])
def test_json_without_any_labelled_pixel_is_null_throughout(predictions):
    evaluation = evaluate(predictions, TINY)
    report = strict(evaluation)
    assert report["mIoU"] is report["pixel_accuracy"] is report["mean_accuracy"] is None
    assert report["absent_classes"] == list(TINY.classes)
    assert report["images"] == len(predictions)
    assert "nan" not in evaluation.table().lower()


def test_json_of_a_perfect_prediction_is_one():
    label = np.arange(4, dtype=np.uint8).reshape(2, 2)
    report = strict(evaluate([({"label": label}, label)], TINY))
    assert report["mIoU"] == report["pixel_accuracy"] == report["mean_accuracy"] == 1
    assert report["absent_classes"] == []


@pytest.mark.parametrize("dataset", [TINY, *DATASETS.values()], ids=lambda dataset: dataset.name)
def test_table_has_a_line_for_every_class_and_the_means(dataset):
    count = len(dataset.classes)
    confusion = np.random.default_rng(0).integers(1, 1000, (count, count))
    confusion[1] = 0  # absent
    evaluation = Evaluation(dataset, confusion, images=3)
    lines, figures = evaluation.table().splitlines(), evaluation.scores
    for name, iou in zip(dataset.classes, figures.iou, strict=True):
        (line,) = [line for line in lines if line.startswith(f"{name}  ")]
        assert ("absent" in line) == np.isnan(iou)
        assert np.isnan(iou) or f"{100 * iou:.1f}" in line
    for name, value in (
        ("mIoU", figures.mean_iou),
        ("mean accuracy", figures.mean_accuracy),
        ("pixel accuracy", figures.pixel_accuracy),
    ):
        (line,) = [line for line in lines if line.startswith(f"{name}  ")]
        assert f"{100 * value:.1f}" in line
    assert len({line.index(".") for line in lines if "." in line}) == 1, "figures stand in one column"
