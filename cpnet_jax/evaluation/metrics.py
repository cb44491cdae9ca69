"""Metrics: functions from a confusion matrix to a figure, and the table that lists them.

To add a metric, add one entry to `METRICS`. Its key is the metric's name in eval.json. Its function is pure. It maps a
confusion matrix, int64 (k, k) by (true class, predicted class), to a float or to a float array of one value per class.
Values lie in [0, 1]. NaN means "not defined", as for a class without labelled pixels, and is null in eval.json.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

Confusion = Int64[np.ndarray, "k k"]  # pixels by (true class, predicted class), ignored pixels left out
PerClass = Float[np.ndarray, " k"]


def iou(confusion: Int64[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """Intersection over union of each class, tp / (tp + fp + fn); NaN if the class has no labelled pixel."""
    correct, labelled, predicted = _counts(confusion)
    return _ratio(correct, labelled + predicted - correct, where=labelled > 0)


def accuracy(confusion: Int64[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """Accuracy (recall) of each class, tp / (tp + fn); NaN if the class has no labelled pixel."""
    correct, labelled, _ = _counts(confusion)
    return _ratio(correct, labelled, where=labelled > 0)


def dice(confusion: Int64[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """Dice coefficient (F1) of each class, 2 tp / (2 tp + fp + fn); NaN if the class has no labelled pixel."""
    correct, labelled, predicted = _counts(confusion)
    return _ratio(2 * correct, labelled + predicted, where=labelled > 0)


def mean_iou(confusion: Int64[np.ndarray, "k k"]) -> float:
    """Mean IoU over the classes that have labelled pixels."""
    return _mean(iou(confusion))


def mean_accuracy(confusion: Int64[np.ndarray, "k k"]) -> float:
    """Mean accuracy over the classes that have labelled pixels."""
    return _mean(accuracy(confusion))


def mean_dice(confusion: Int64[np.ndarray, "k k"]) -> float:
    """Mean Dice coefficient over the classes that have labelled pixels."""
    return _mean(dice(confusion))


def mean_iou_absent_as_0(confusion: Int64[np.ndarray, "k k"]) -> float:
    """Mean IoU over all classes; a class without labelled pixels counts 0 (the toolkit of SceneParse150)."""
    return _sum(iou(confusion)) / len(confusion)


def mean_iou_absent_as_1(confusion: Int64[np.ndarray, "k k"]) -> float:
    """Mean IoU over all classes; a class neither labelled nor predicted counts 1, one only predicted counts 0.

    This is the result of systems that add the same small number to intersection and union.
    """
    _, labelled, predicted = _counts(confusion)
    return float((_sum(iou(confusion)) + (labelled + predicted == 0).sum()) / len(confusion))


def mean_iou_labelled_or_predicted(confusion: Int64[np.ndarray, "k k"]) -> float:
    """Mean IoU over the classes labelled or predicted, the latter with IoU 0 (cityscapesScripts, MMSegmentation)."""
    _, labelled, predicted = _counts(confusion)
    return float(_sum(iou(confusion)) / max((labelled + predicted > 0).sum(), 1))


def pixel_accuracy(confusion: Int64[np.ndarray, "k k"]) -> float:
    """Share of the labelled pixels whose class is predicted correctly."""
    correct, labelled, _ = _counts(confusion)
    return float(correct.sum() / labelled.sum()) if labelled.any() else float("nan")


def frequency_weighted_iou(confusion: Int64[np.ndarray, "k k"]) -> float:
    """Mean IoU weighted by the labelled pixels of each class."""
    _, labelled, _ = _counts(confusion)
    return float(_sum(iou(confusion) * labelled) / max(labelled.sum(), 1))


class Metric(NamedTuple):
    """A metric and where it is shown. All metrics are in eval.json and in the report.

    Attributes:
      function: maps a confusion matrix to a figure; the module's docstring states the contract.
      title: its name in the text table; by default its key with spaces.
      in_table: whether the text table shows it.
      logged: whether evaluations during training write it to metrics.jsonl and TensorBoard.
    """

    function: Callable[[Confusion], float | PerClass]
    title: str = ""
    in_table: bool = True
    logged: bool = False


# In the order in which the text table lists them.
METRICS: dict[str, Metric] = {
    "mIoU": Metric(mean_iou, logged=True),
    "mIoU_absent_as_0": Metric(mean_iou_absent_as_0, in_table=False),
    "mIoU_absent_as_1": Metric(mean_iou_absent_as_1, in_table=False),
    "mIoU_labelled_or_predicted": Metric(mean_iou_labelled_or_predicted, in_table=False),
    "mean_accuracy": Metric(mean_accuracy, logged=True),
    "mean_dice": Metric(mean_dice, "mean Dice"),
    "pixel_accuracy": Metric(pixel_accuracy, logged=True),
    "frequency_weighted_IoU": Metric(frequency_weighted_iou, "frequency-weighted IoU"),
    "per_class": Metric(iou, "IoU"),
    "per_class_accuracy": Metric(accuracy, "acc"),
    "per_class_dice": Metric(dice, "Dice"),
}


def compute_all(confusion: Int64[np.ndarray, "k k"]) -> dict[str, float | PerClass]:
    """The value of every metric of `METRICS`, by its key."""
    return {name: metric.function(confusion) for name, metric in METRICS.items()}


def title_of(name: str) -> str:
    """A metric's name in the text table, or that of a figure outside `METRICS`."""
    metric = METRICS.get(name)
    return (metric.title if metric else "") or name.removeprefix("per_class_").replace("_", " ")


def _counts(
    confusion: Int64[np.ndarray, "k k"],
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Correct, labelled and predicted pixels of each class; exact up to 2^53."""
    correct, labelled, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return correct.astype(np.float64), labelled.astype(np.float64), predicted.astype(np.float64)


def _ratio(
    numerator: Float[np.ndarray, " k"], denominator: Float[np.ndarray, " k"], *, where: Bool[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """The quotient; NaN outside `where`."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=where)


def _mean(values: Float[np.ndarray, " k"]) -> float:
    """Mean of the defined values; NaN if none is defined."""
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def _sum(values: Float[np.ndarray, " k"]) -> float:
    """Sum of the defined values; NaN if none is defined."""
    return float("nan") if np.isnan(values).all() else float(np.nansum(values))
