"""Evaluation of a network on a split: every image once, at its label's own size."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation.confusion import Scores, confusion_matrix, scores

Prediction = tuple[dict[str, Any], UInt8[np.ndarray, "h w"]]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    dataset: Dataset
    confusion: Int64[np.ndarray, "k k"]
    images: int

    @property
    def scores(self) -> Scores:
        return scores(self.confusion)

    def as_json(self, **settings: Any) -> dict[str, Any]:
        """The contents of eval.json; IoU of a class that the split does not show is null."""
        found = self.scores
        per_class = dict(zip(self.dataset.classes, map(_number, found.iou), strict=True))
        return {
            "mIoU": _number(found.mean_iou),
            "pixel_accuracy": _number(found.pixel_accuracy),
            "mean_accuracy": _number(found.mean_accuracy),
            "per_class": per_class,
            "absent_classes": [name for name, iou in per_class.items() if iou is None],
            "images": self.images,
            "settings": settings,
        }

    def table(self) -> str:
        """IoU by class as text, and the means."""
        found = self.scores
        width = max(map(len, (*self.dataset.classes, "pixel accuracy")))
        rows = [
            f"{name:<{width}}  {_percent(iou)}  {_bar(iou)}".rstrip()
            for name, iou in zip(self.dataset.classes, found.iou, strict=True)
        ]
        means = [
            f"{'mIoU':<{width}}  {_percent(found.mean_iou)}",
            f"{'mean accuracy':<{width}}  {_percent(found.mean_accuracy)}",
            f"{'pixel accuracy':<{width}}  {_percent(found.pixel_accuracy)}",
        ]
        rule = "-" * (width + 7)
        return "\n".join([f"{'class':<{width}}  IoU %", rule, *rows, rule, *means])


def evaluate(
    predictions: Iterable[Prediction], dataset: Dataset, *, each: Callable[[int, Prediction], None] | None = None
) -> Evaluation:
    """Args:
    predictions: (example with "label" at its own size, predicted classes of that size).
    dataset: whose classes they are.
    each: called with (place, prediction), to draw it for instance.
    """
    classes = len(dataset.classes)
    confusion = np.zeros((classes, classes), np.int64)
    images = 0
    for example, predicted in predictions:
        confusion += confusion_matrix(example["label"], predicted, classes, dataset.ignore_label)
        if each is not None:
            each(images, (example, predicted))
        images += 1
    return Evaluation(dataset, confusion, images)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _percent(value: float) -> str:
    return "    -" if math.isnan(value) else f"{100 * value:5.1f}"


def _bar(value: float) -> str:
    return "absent from this split" if math.isnan(value) else "#" * round(40 * value)
