"""Evaluates predictions against labels: every image once, at its label's own size."""

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation import metrics
from cpnet_jax.evaluation.confusion import confusion_matrix, without_class
from cpnet_jax.evaluation.kept_predictions import KeptPredictions, Packed

Prediction = tuple[dict[str, Any], UInt8[np.ndarray, "_ _"]]  # sizes differ from image to image

# The longest line of the text table.
TABLE_WIDTH = 100
MAX_NAME = 34
MAX_BAR = 38


@dataclass(frozen=True)
class PerImage:
    """Figures of single images.

    Attributes:
      places: indices of the images in the split, ascending.
      pixel_accuracy: in [0, 1]; NaN if no pixel is labelled.
      mean_iou: in [0, 1], over the classes in the image's label; NaN if no pixel is labelled.
    """

    places: Int64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.int64))
    pixel_accuracy: Float[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))
    mean_iou: Float[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation: a confusion matrix, and figures computed from it.

    `predictions` holds those of the images that pictures show, by their place in the split.
    """

    dataset: Dataset
    confusion: Int64[np.ndarray, "k k"]
    images: int
    per_image: PerImage = field(default_factory=PerImage)
    predictions: Mapping[int, Packed] = field(default_factory=dict)

    @cached_property
    def _values(self) -> dict[str, Any]:
        return metrics.compute_all(self.confusion)

    @property
    def figures(self) -> dict[str, float]:
        """The metrics that are one number, by name; NaN if not defined. They include `optional_class_figures`."""
        scalars = {name: value for name, value in self._values.items() if np.ndim(value) == 0}
        return {"mIoU": scalars["mIoU"], **self.optional_class_figures(), **scalars}

    @property
    def class_figures(self) -> dict[str, Float[np.ndarray, " k"]]:
        """The metrics that are one number per class, by name; NaN if not defined."""
        return {name: value for name, value in self._values.items() if np.ndim(value) == 1}

    def logged(self) -> dict[str, float]:
        """The figures for metrics.jsonl and TensorBoard, without undefined ones."""
        return {
            name: float(value)
            for name, value in self.figures.items()
            if name in metrics.METRICS and metrics.METRICS[name].logged and not math.isnan(value)
        }

    @property
    def labelled_pixels(self) -> dict[str, int]:
        """The number of labelled pixels of each class."""
        return dict(zip(self.dataset.classes, self.confusion.sum(axis=1).tolist(), strict=True))

    @property
    def absent_classes(self) -> list[str]:
        """The classes without a labelled pixel."""
        return [name for name, pixels in self.labelled_pixels.items() if not pixels]

    def worst(self, count: int) -> list[int]:
        """Places of the images with the lowest mean IoU, worst first.

        Ties are broken by pixel accuracy, then by place. Images without a labelled pixel are left out.
        """
        return self._ranked(1)[:count]

    def best(self, count: int) -> list[int]:
        """Places of the images with the highest mean IoU, best first; otherwise as `worst`."""
        return self._ranked(-1)[:count]

    def worst_and_best(self, count: int) -> tuple[list[int], list[int]]:
        """Places of the worst and of the best images: `count` in total, none in both lists."""
        worst = self.worst(-(-count // 2))
        best = [place for place in self.best(self.images) if place not in worst]
        return worst, best[: count // 2]

    def _ranked(self, sign: int) -> list[int]:
        found = self.per_image
        order = np.lexsort((found.places, sign * found.pixel_accuracy, sign * found.mean_iou))
        return found.places[order[~np.isnan(found.mean_iou[order])]].tolist()

    def optional_class_figures(self) -> dict[str, float]:
        """The mIoUs reported for a dataset with an optional class, as PASCAL-Context's background; otherwise empty.

        With n classes besides the optional one (59 in PASCAL-Context):
          mIoU_n_classes: mIoU without the optional class. Pixels labelled as it are ignored; predicting it elsewhere
            stays wrong.
          mIoU_n_classes_over_n+1: n / (n + 1) of that, as if the class were counted and never found. Papers call this
            "60 classes" for models of 59.
          mIoU_n+1_classes: mIoU with the optional class; NaN if the model does not predict it.
        """
        name, classes = self.dataset.optional_class, self.dataset.classes
        if not name:
            return {}
        n = len(classes) - (name in classes)
        with_it, without_it = math.nan, metrics.mean_iou(self.confusion)
        if name in classes:
            with_it, without_it = without_it, metrics.mean_iou(without_class(self.confusion, classes.index(name)))
        return {
            f"mIoU_{n}_classes": without_it,
            f"mIoU_{n}_classes_over_{n + 1}": without_it * n / (n + 1),
            f"mIoU_{n + 1}_classes": with_it,
        }

    def as_json(self, **settings: Any) -> dict[str, Any]:
        """The contents of eval.json: every metric of `METRICS`; null if not defined, as for a class without labels."""
        return {
            **{name: _number(value) for name, value in self.figures.items()},
            **{name: self._by_class(values) for name, values in self.class_figures.items()},
            "absent_classes": self.absent_classes,
            "labelled_pixels": self.labelled_pixels,
            "images": self.images,
            "settings": settings,
        }

    def _by_class(self, values: Float[np.ndarray, " k"]) -> dict[str, float | None]:
        return dict(zip(self.dataset.classes, map(_number, values), strict=True))

    def table(self) -> str:
        """A text table: one line per class, then the means, then the absent classes."""
        columns = {f"{metrics.title_of(n)} %": values for n, values in self.class_figures.items() if _in_table(n)}
        means = {metrics.title_of(name): value for name, value in self.figures.items() if _in_table(name)}
        names = [_shortened(name) for name in self.dataset.classes]
        width = max(map(len, (*names, *means)))
        head = "  ".join([f"{'class':<{width}}", *(f"{title:>6}" for title in columns)])
        bar = max(min(MAX_BAR, TABLE_WIDTH - len(head) - 2), 0)
        rows = [
            "  ".join(
                [
                    f"{name:<{width}}",
                    *(f"{_percent(values[i]):>{max(len(title), 6)}}" for title, values in columns.items()),
                    _bar(iou, bar),
                ]
            ).rstrip()
            for i, (name, iou) in enumerate(zip(names, self.class_figures["per_class"], strict=True))
        ]
        rule = "-" * len(head)
        lines = [head, rule, *rows, rule]
        lines += [f"{name:<{width}}  {_percent(value)}" for name, value in means.items() if not math.isnan(value)]
        return "\n".join([*lines, *self._remarks()])

    def _remarks(self) -> list[str]:
        absent = self.absent_classes
        if not absent:
            return []
        remarks = [f"Absent from this split and left out of the means: {', '.join(absent)}."]
        if len(absent) < len(self.dataset.classes):
            zero, one = (100 * self.figures[f"mIoU_absent_as_{value}"] for value in (0, 1))
            remarks.append(f"With absent classes as 0 the mIoU would be {zero:.1f}, as 1 it would be {one:.1f}.")
        return ["", *textwrap.wrap(" ".join(remarks), TABLE_WIDTH)]


def evaluate(
    predictions: Iterable[Prediction],
    dataset: Dataset,
    *,
    start: int = 0,
    step: int = 1,
    keep: KeptPredictions | None = None,
) -> Evaluation:
    """Counts pixels over all predictions.

    Args:
      predictions: pairs of an example with "label" at its own size, and the predicted classes of that size.
      dataset: its classes and ignore label.
      start, step: the predictions have the places start, start + step, ... in the split. Process i of n passes i and
        n; `merge` then combines the evaluations.
      keep: keeps the predictions that pictures may show.

    Raises:
      ValueError: if a label or prediction has a value that is not a class, or their sizes differ.
    """
    classes = len(dataset.classes)
    confusion = np.zeros((classes, classes), np.int64)
    rows = []
    for place, (example, predicted) in zip(itertools.count(start, step), predictions, strict=False):
        of_image = confusion_matrix(example["label"], predicted, classes, dataset.ignore_label)
        confusion += of_image
        accuracy, mean_iou = metrics.pixel_accuracy(of_image), metrics.mean_iou(of_image)
        rows.append((place, accuracy, mean_iou))
        if keep:
            keep.add(place, mean_iou, accuracy, predicted)
    return Evaluation(dataset, confusion, len(rows), _per_image(rows))


def _per_image(rows: Sequence[tuple[int, float, float]]) -> PerImage:
    numbers = np.array(rows, np.float64).reshape(-1, 3)
    return PerImage(numbers[:, 0].astype(np.int64), numbers[:, 1], numbers[:, 2])


def merge(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Combines evaluations of parts of a split, in any order.

    Raises:
      ValueError: if the list is empty, the datasets differ, or an image is in two of the evaluations.
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


def _in_table(name: str) -> bool:
    return name not in metrics.METRICS or metrics.METRICS[name].in_table


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _percent(value: float) -> str:
    return "     -" if math.isnan(value) else f"{100 * value:6.1f}"


def _bar(value: float, width: int) -> str:
    return "absent from this split" if math.isnan(value) else "#" * round(width * value)


def _shortened(name: str) -> str:
    """The name cut in the middle, because names often differ only at their ends."""
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - half - 1]}…{name[-half:]}"
