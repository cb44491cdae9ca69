"""An evaluation counts every image once at its own size, and reports it as strict JSON and as a table."""

import dataclasses
import json

import numpy as np
import pytest

from cpnet_jax.data.catalog import DATASETS, PASCAL_CONTEXT, PASCAL_CONTEXT_60, Dataset
from cpnet_jax.evaluation.confusion import confusion_matrix
from cpnet_jax.evaluation.evaluate import Evaluation, evaluate, merge
from cpnet_jax.evaluation.metrics import compute_all

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
    assert evaluation.figures["mIoU"] == compute_all(evaluation.confusion)["mIoU"]


def test_the_datasets_ignore_label_is_what_is_ignored():
    dataset = Dataset("other", TINY.classes, TINY.palette, ignore_label=77)
    pair = {"label": np.array([[0, 77, 1]], np.uint8)}, np.array([[0, 0, 1]], np.uint8)
    assert evaluate([pair], dataset).confusion.sum() == 2


@pytest.mark.parametrize("value", [4, 254])
def test_a_label_that_is_not_a_class_stops_the_evaluation(value):
    predictions = make_predictions()
    predictions[2][0]["label"][0, 0] = value
    with pytest.raises(ValueError, match="label"):
        evaluate(predictions, TINY)


def test_a_prediction_of_another_size_stops_the_evaluation():
    with pytest.raises(ValueError, match="shape"):
        evaluate([({"label": np.zeros((4, 6), np.uint8)}, np.zeros((6, 4), np.uint8))], TINY)


def test_counting_is_exact_beyond_the_range_of_float32():
    """Cityscapes' validation split has 1e9 pixels; float32 stops at 2^24."""
    block = np.zeros((1024, 1024), np.uint8)
    pixel = np.zeros((1, 1), np.uint8)
    evaluation = evaluate([({"label": block}, block)] * 16 + [({"label": pixel}, pixel)] * 3, TINY)
    assert evaluation.confusion[0, 0] == 2**24 + 3
    assert evaluation.images == 19


def strict(evaluation: Evaluation, **settings) -> dict:
    """The contents of eval.json after a round trip through strict JSON; NaN raises."""
    return json.loads(json.dumps(evaluation.as_json(**settings), allow_nan=False))


def test_json_holds_the_figures_and_the_settings():
    evaluation = evaluate(make_predictions(), TINY)
    report, figures = strict(evaluation, step=7, window=[480, 480]), compute_all(evaluation.confusion)
    assert report["mIoU"] == figures["mIoU"]
    assert report["pixel_accuracy"] == figures["pixel_accuracy"]
    assert report["mean_accuracy"] == figures["mean_accuracy"]
    assert list(report["per_class"]) == list(TINY.classes)
    assert report["per_class"]["sky"] == figures["per_class"][3]
    assert report["images"] == len(SIZES)
    assert report["settings"] == {"step": 7, "window": [480, 480]}


def test_json_names_absent_classes_and_gives_them_null():
    predictions = make_predictions()
    report = strict(evaluate(predictions, TINY))
    assert report["absent_classes"] == ["umbrella stand"]
    labels = np.concatenate([example["label"].ravel() for example, _ in predictions])
    assert report["labelled_pixels"] == {name: (labels == index).sum() for index, name in enumerate(TINY.classes)}
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


def test_json_holds_every_figure_by_class_and_as_a_mean():
    evaluation = evaluate(make_predictions(), TINY)
    report, figures = strict(evaluation), compute_all(evaluation.confusion)
    for key in ("per_class", "per_class_accuracy", "per_class_dice"):
        values = figures[key]
        assert list(report[key]) == list(TINY.classes)
        assert [report[key][name] for name in ("water", "sand", "sky")] == values[[0, 1, 3]].tolist()
        assert report[key]["umbrella stand"] is None
    assert report["mean_dice"] == figures["mean_dice"]
    assert report["frequency_weighted_IoU"] == figures["frequency_weighted_IoU"]


def test_json_holds_the_miou_under_other_conventions():
    report = strict(evaluate(make_predictions(), TINY))  # "umbrella stand" is predicted, never labelled
    total = sum(value for value in report["per_class"].values() if value is not None)
    assert report["mIoU"] == pytest.approx(total / 3)
    assert report["mIoU_absent_as_0"] == pytest.approx(total / 4)
    assert report["mIoU_absent_as_1"] == pytest.approx(total / 4), "it is predicted: no perfect match"
    assert report["mIoU_labelled_or_predicted"] == pytest.approx(total / 4)
    label = np.array([[0, 0, 1]], np.uint8)  # "umbrella stand" and "sky" are neither
    report = strict(evaluate([({"label": label}, np.array([[0, 1, 1]], np.uint8))], TINY))
    assert report["mIoU"] == report["mIoU_labelled_or_predicted"] == pytest.approx(1 / 2)
    assert report["mIoU_absent_as_0"] == pytest.approx(1 / 4)
    assert report["mIoU_absent_as_1"] == pytest.approx(3 / 4)


def context_confusion(classes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1000, (classes, classes)) + 5000 * np.eye(classes, dtype=int)


def test_pascal_context_of_a_59_class_model_has_no_60_class_figure():
    report = strict(Evaluation(PASCAL_CONTEXT, context_confusion(59), images=1))
    assert report["mIoU_59_classes"] == report["mIoU"]
    assert report["mIoU_59_classes_over_60"] == pytest.approx(sum(report["per_class"].values()) / 60)
    assert report["mIoU_60_classes"] is None


def test_pascal_context_of_a_60_class_model_ignores_background_for_the_59_class_figure():
    confusion = context_confusion(60)
    report = strict(Evaluation(PASCAL_CONTEXT_60, confusion, images=1))
    # A prediction of background where the label is none stays wrong, so that column stays.
    found = [
        confusion[k, k] / (confusion[k].sum() + confusion[1:, k].sum() - confusion[k, k])  # row 0: labelled background
        for k in range(1, 60)
    ]
    assert report["mIoU_60_classes"] == report["mIoU"]
    assert report["mIoU_59_classes"] == pytest.approx(np.mean(found), rel=1e-12)
    assert report["mIoU_59_classes_over_60"] == pytest.approx(sum(found) / 60, rel=1e-12)
    assert report["mIoU_59_classes"] != pytest.approx(report["mIoU"], rel=1e-3)


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_only_pascal_context_has_figures_with_and_without_a_class(dataset):
    count = len(dataset.classes)
    evaluation = Evaluation(dataset, np.eye(count, dtype=np.int64), images=1)
    assert bool(evaluation.optional_class_figures()) == dataset.name.startswith("pascal_context")


def test_per_image_figures_are_those_of_the_image_alone():
    predictions = make_predictions()
    predictions[2][0]["label"][:] = 255
    found = evaluate(iter(predictions), TINY).per_image
    assert found.places.tolist() == list(range(len(SIZES)))
    for place, pair in enumerate(predictions):
        alone = compute_all(evaluate([pair], TINY).confusion)
        assert found.pixel_accuracy[place] == pytest.approx(alone["pixel_accuracy"], nan_ok=True)
        assert found.mean_iou[place] == pytest.approx(alone["mIoU"], nan_ok=True)
    assert np.isnan(found.mean_iou).tolist() == [False, False, True, False, False]


def images_with(correct: list[int]) -> list:
    """Images of ten pixels of one class with the given numbers of correct ones; -1: an image without labels."""
    pairs = []
    for count in correct:
        label = np.full((1, 10), 255 if count < 0 else 0, np.uint8)
        pairs.append(({"label": label}, (np.arange(10) >= count).astype(np.uint8)[None]))
    return pairs


def test_worst_and_best_are_ranked_by_mean_iou_then_place_and_leave_unlabelled_images_out():
    evaluation = evaluate(images_with([3, 9, -1, 1, 9, 3, 10]), TINY)
    assert evaluation.worst(10) == [3, 0, 5, 1, 4, 6]
    assert evaluation.best(10) == [6, 1, 4, 0, 5, 3]
    assert evaluation.worst(2) == [3, 0] and evaluation.best(2) == [6, 1]
    assert evaluation.worst(0) == evaluation.best(0) == []
    assert evaluate([], TINY).worst(3) == []


def test_pixel_accuracy_breaks_ties_of_mean_iou():
    """Mean IoUs of (1 + 0) / 2 and (0 + 1) / 2 at accuracies of 3/4 and 1/4."""
    predictions = [
        ({"label": np.array([[0, 0, 0, 1]], np.uint8)}, np.array([[0, 0, 0, 2]], np.uint8)),
        ({"label": np.array([[0, 0, 0, 1]], np.uint8)}, np.array([[2, 2, 2, 1]], np.uint8)),
    ]
    evaluation = evaluate(predictions, TINY)
    assert evaluation.per_image.mean_iou.tolist() == [0.5, 0.5]
    assert evaluation.worst(2) == [1, 0] and evaluation.best(2) == [0, 1]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_merging_the_evaluations_of_several_processes_equals_one(processes):
    predictions = make_predictions()
    predictions[1][0]["label"][:] = 255
    parts = [evaluate(predictions[i::processes], TINY, start=i, step=processes) for i in range(processes)]
    whole = evaluate(predictions, TINY)
    for merged in (merge(parts), merge(parts[::-1])):
        assert np.array_equal(merged.confusion, whole.confusion) and merged.confusion.dtype == np.int64
        assert merged.images == whole.images
        for ours, theirs in zip(vars(merged.per_image).values(), vars(whole.per_image).values(), strict=True):
            assert np.array_equal(ours, theirs, equal_nan=True) and ours.dtype == theirs.dtype
        assert merged.worst(9) == whole.worst(9)


def test_an_image_counted_twice_or_another_dataset_is_refused():
    parts = [evaluate(make_predictions(), TINY, start=i, step=2) for i in (0, 2)]
    with pytest.raises(ValueError, match="two of the evaluations"):
        merge(parts)
    other = evaluate(make_predictions(), dataclasses.replace(TINY, name="other"), start=1, step=2)
    with pytest.raises(ValueError, match="different datasets"):
        merge([parts[0], other])
    with pytest.raises(ValueError, match="no evaluations"):
        merge([])


@pytest.mark.parametrize("dataset", [TINY, *DATASETS.values()], ids=lambda dataset: dataset.name)
def test_table_has_a_line_for_every_class_and_the_means(dataset):
    count = len(dataset.classes)
    confusion = np.random.default_rng(0).integers(1, 1000, (count, count))
    confusion[1] = 0  # absent
    evaluation = Evaluation(dataset, confusion, images=3)
    lines, figures = evaluation.table().splitlines(), compute_all(evaluation.confusion)
    columns = [figures[name] for name in ("per_class", "per_class_accuracy", "per_class_dice")]
    for name, *values in zip(dataset.classes, *columns, strict=True):
        (line,) = [line for line in lines if line.startswith(f"{name}  ")]
        assert ("absent" in line) == np.isnan(values[0])
        assert np.isnan(values[0]) or line.removeprefix(name).split()[:3] == [f"{100 * value:.1f}" for value in values]
    for name, value in (
        ("mIoU", figures["mIoU"]),
        ("mean accuracy", figures["mean_accuracy"]),
        ("mean Dice", figures["mean_dice"]),
        ("pixel accuracy", figures["pixel_accuracy"]),
        ("frequency-weighted IoU", figures["frequency_weighted_IoU"]),
    ):
        (line,) = [line for line in lines if line.startswith(f"{name}  ")]
        assert f"{100 * value:.1f}" in line
    end = lines.index("")
    assert len({line.index(".") for line in lines[:end] if "." in line}) == 1, "figures stand in one column"
    assert dataset.classes[1] in " ".join(lines[end:]), "absent classes are named below"
    assert max(map(len, lines)) <= 100


def test_table_stays_readable_with_long_names_and_perfect_figures():
    names = tuple(f"a class whose name is a whole sentence, as some are, number {i}" for i in range(4))
    dataset = dataclasses.replace(TINY, classes=names)
    confusion = np.diag([5, 5, 5, 0])
    lines = Evaluation(dataset, confusion, images=1).table().splitlines()
    assert max(map(len, lines)) <= 100
    shown = [line for line in lines[: lines.index("")] if line.startswith("a class")]
    assert [line.split("  ")[0][-1] for line in shown] == ["0", "1", "2", "3"]
    assert "#" in shown[0] and "absent" in shown[3]


def test_table_without_absent_classes_ends_with_the_means():
    table = Evaluation(TINY, np.diag([5, 5, 5, 5]), images=1).table()
    assert "bsent" not in table and table.splitlines()[-1].startswith("frequency-weighted IoU")
