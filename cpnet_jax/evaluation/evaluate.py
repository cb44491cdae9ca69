"""Evaluation of a network on a split: every image once, at its label's own size."""

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation.confusion import Scores, confusion_matrix, scores, without_class

Prediction = tuple[dict[str, Any], UInt8[np.ndarray, "h w"]]

# The table's lines are no longer than TABLE_WIDTH.
TABLE_WIDTH = 100
MAX_NAME = 34
BAR = 38


@dataclass(frozen=True)
class PerImage:
    """Figures of single images, by place.

    Attributes:
      places: in the split, rising.
      pixel_accuracy: in [0, 1]; NaN where no pixel is labelled.
      mean_iou: in [0, 1], over the classes that the image's label shows; NaN where no pixel is labelled.
    """

    places: Int64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.int64))
    pixel_accuracy: Float[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))
    mean_iou: Float[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    dataset: Dataset
    confusion: Int64[np.ndarray, "k k"]
    images: int
    per_image: PerImage = field(default_factory=PerImage)

    @property
    def scores(self) -> Scores:
        return scores(self.confusion)

    @property
    def absent_classes(self) -> list[str]:
        """Those that no label shows."""
        shown = self.confusion.sum(axis=1) > 0
        return [name for name, is_shown in zip(self.dataset.classes, shown, strict=True) if not is_shown]

    def worst(self, count: int) -> list[int]:
        """Places of the images with the lowest mean IoU, worst first; ties by pixel accuracy, then by place. Images
        without any label are never among them."""
        return self._ranked(1)[:count]

    def best(self, count: int) -> list[int]:
        """Places of the images with the highest mean IoU, best first; otherwise as `worst`."""
        return self._ranked(-1)[:count]

    def _ranked(self, sign: int) -> list[int]:
        found = self.per_image
        order = np.lexsort((found.places, sign * found.pixel_accuracy, sign * found.mean_iou))
        return found.places[order[~np.isnan(found.mean_iou[order])]].tolist()

    def optional_class_figures(self) -> dict[str, float]:
        """The mIoUs that people report where a class is optional, as PASCAL-Context's background; empty elsewhere.

        With n classes beside the optional one (59 there):
          mIoU_n_classes: without it. For a model that knows it, pixels labelled as it are ignored; predicting it
            elsewhere stays wrong.
          mIoU_n_classes_over_n+1: n / (n + 1) of that, as though the class were counted and never found: what is
            called "60 classes" for models of 59.
          mIoU_n+1_classes: with it, the true one; NaN for a model that does not know it.
        """
        name, classes = self.dataset.optional_class, self.dataset.classes
        if not name:
            return {}
        n = len(classes) - (name in classes)
        with_it, without_it = math.nan, self.scores.mean_iou
        if name in classes:
            with_it, without_it = without_it, scores(without_class(self.confusion, classes.index(name))).mean_iou
        return {
            f"mIoU_{n}_classes": without_it,
            f"mIoU_{n}_classes_over_{n + 1}": without_it * n / (n + 1),
            f"mIoU_{n + 1}_classes": with_it,
        }

    def as_json(self, **settings: Any) -> dict[str, Any]:
        """The contents of eval.json; a figure that does not exist, as those of a class that no label shows, is null.

        See `Scores` for what the figures mean. mIoU leaves absent classes out; mIoU_absent_as_0, mIoU_absent_as_1 and
        mIoU_labelled_or_predicted are what systems with other conventions would give.
        """
        found = self.scores
        figures = {
            "mIoU": found.mean_iou,
            "mIoU_absent_as_0": found.mean_iou_absent_zero,
            "mIoU_absent_as_1": found.mean_iou_absent_one,
            "mIoU_labelled_or_predicted": found.mean_iou_of_shown,
            **self.optional_class_figures(),
            "pixel_accuracy": found.pixel_accuracy,
            "mean_accuracy": found.mean_accuracy,
            "frequency_weighted_IoU": found.frequency_weighted_iou,
            "mean_dice": found.mean_dice,
        }
        return {
            **{name: _number(value) for name, value in figures.items()},
            "per_class": self._by_class(found.iou),
            "per_class_accuracy": self._by_class(found.accuracy),
            "per_class_dice": self._by_class(found.dice),
            "absent_classes": self.absent_classes,
            "images": self.images,
            "settings": settings,
        }

    def _by_class(self, values: Float[np.ndarray, " k"]) -> dict[str, float | None]:
        return dict(zip(self.dataset.classes, map(_number, values), strict=True))

    def table(self) -> str:
        """IoU, accuracy and Dice by class as text, the means, and which classes are absent."""
        found = self.scores
        means = {
            "mIoU": found.mean_iou,
            **{name.replace("_", " "): value for name, value in self.optional_class_figures().items()},
            "mean accuracy": found.mean_accuracy,
            "mean Dice": found.mean_dice,
            "pixel accuracy": found.pixel_accuracy,
            "frequency-weighted IoU": found.frequency_weighted_iou,
        }
        names = [_shortened(name) for name in self.dataset.classes]
        width = max(map(len, (*names, *means)))
        rows = [
            f"{name:<{width}}  {_percent(iou)}  {_percent(accuracy)}  {_percent(dice)}  {_bar(iou)}".rstrip()
            for name, iou, accuracy, dice in zip(names, found.iou, found.accuracy, found.dice, strict=True)
        ]
        head = f"{'class':<{width}}   IoU %   acc %  Dice %"
        rule = "-" * len(head)
        lines = [head, rule, *rows, rule]
        lines += [f"{name:<{width}}  {_percent(value)}" for name, value in means.items() if not math.isnan(value)]
        return "\n".join([*lines, *self._remarks(found)])

    def _remarks(self, found: Scores) -> list[str]:
        absent = self.absent_classes
        if not absent:
            return []
        remarks = [f"Absent from this split and left out of the means: {', '.join(absent)}."]
        if len(absent) < len(self.dataset.classes):
            zero, one = 100 * found.mean_iou_absent_zero, 100 * found.mean_iou_absent_one
            remarks.append(f"With absent classes as 0 the mIoU would be {zero:.1f}, as 1 it would be {one:.1f}.")
        return ["", *textwrap.wrap(" ".join(remarks), TABLE_WIDTH)]


def evaluate(
    predictions: Iterable[Prediction],
    dataset: Dataset,
    *,
    start: int = 0,
    step: int = 1,
) -> Evaluation:
    """Args:
      predictions: (example with "label" at its own size, predicted classes of that size).
      dataset: whose classes they are.
      start, step: the predictions' places in the split are start, start + step ...; process i of n that sees every
        n-th example gives i and n, and `merge` puts the evaluations together.

    Raises:
      ValueError: on labels or predictions of other values than the classes, or of different sizes.
    """
    classes = len(dataset.classes)
    confusion = np.zeros((classes, classes), np.int64)
    rows = []
    for place, (example, predicted) in zip(itertools.count(start, step), predictions, strict=False):
        of_image = confusion_matrix(example["label"], predicted, classes, dataset.ignore_label)
        found = scores(of_image)
        confusion += of_image
        rows.append((place, found.pixel_accuracy, found.mean_iou))
    return Evaluation(dataset, confusion, len(rows), _per_image(rows))


def _per_image(rows: Sequence[tuple[int, float, float]]) -> PerImage:
    numbers = np.array(rows, np.float64).reshape(-1, 3)
    return PerImage(numbers[:, 0].astype(np.int64), numbers[:, 1], numbers[:, 2])


def merge(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of all their images together, whatever their order.

    Raises:
      ValueError: where there are none, they are of different datasets, or an image is in two of them.
    """
    if not evaluations:
        raise ValueError("there are no evaluations to merge")
    dataset = evaluations[0].dataset
    if any(evaluation.dataset != dataset for evaluation in evaluations):
        raise ValueError(f"evaluations of different datasets: {sorted({e.dataset.name for e in evaluations})}")
    parts = [evaluation.per_image for evaluation in evaluations]
    places = np.concatenate([part.places for part in parts])
    order = np.argsort(places)
    if (np.diff(places[order]) == 0).any():
        raise ValueError("an image is in two of the evaluations")
    return Evaluation(
        dataset,
        np.sum([evaluation.confusion for evaluation in evaluations], axis=0),
        sum(evaluation.images for evaluation in evaluations),
        PerImage(
            places[order],
            np.concatenate([part.pixel_accuracy for part in parts])[order],
            np.concatenate([part.mean_iou for part in parts])[order],
        ),
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _percent(value: float) -> str:
    return "     -" if math.isnan(value) else f"{100 * value:6.1f}"


def _bar(value: float) -> str:
    return "absent from this split" if math.isnan(value) else "#" * round(BAR * value)


def _shortened(name: str) -> str:
    """Cut in the middle: names often differ at their ends only."""
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - half - 1]}…{name[-half:]}"
