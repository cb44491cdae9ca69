"""Formats the figures of an evaluation for the page's tables; null in eval.json becomes a dash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from cpnet_jax.data.catalog import Colour, Dataset

# The figures at the top of the page.
HEADLINES = {
    "mIoU": "mIoU",
    "pixel_accuracy": "Pixel accuracy",
    "mean_accuracy": "Mean accuracy",
    "frequency_weighted_IoU": "Frequency-weighted IoU",
    "mean_dice": "Mean Dice",
}
SETTINGS = ("dataset", "split", "step", "scales", "flip", "window")
# Names with a fixed place on the page. Everything else in eval.json is listed as a further figure or column.
ELSEWHERE = {*HEADLINES, "per_class", "per_class_accuracy", "absent_classes", "labelled_pixels", "images", "settings"}


@dataclass(frozen=True)
class ClassRow:
    """The figures of one class.

    Attributes:
      iou, accuracy: in [0, 1]; None if the class has no labelled pixel.
      frequency: share of all labelled pixels.
      pixels: number of labelled pixels.
      others: values of the further columns.
    """

    name: str
    colour: Colour
    iou: float | None
    accuracy: float | None
    frequency: float
    pixels: int
    others: tuple[Any, ...] = ()


def headlines(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(title, value) of the figures at the top of the page."""
    found = [(title, percent(figures[key], 2)) for key, title in HEADLINES.items() if key in figures]
    return [*found, ("Images", f"{figures['images']:,}")] if "images" in figures else found


def settings(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the evaluation's settings, the usual ones first; "not stated" if eval.json lacks one."""
    stated = figures.get("settings", {})
    names = [*SETTINGS, *(name for name in stated if name not in SETTINGS)]
    return [(name.replace("_", " "), _plain(stated[name]) if name in stated else "not stated") for name in names]


def class_rows(figures: Mapping[str, Any], confusion: Int64[np.ndarray, "k k"], dataset: Dataset) -> list[ClassRow]:
    """One row per class, in the dataset's order."""
    labelled, correct = confusion.sum(axis=1), np.diag(confusion)
    total = max(int(labelled.sum()), 1)
    columns = further_columns(figures, dataset).values()
    return [
        ClassRow(
            name=name,
            colour=dataset.palette[i],
            iou=figures["per_class"].get(name),
            accuracy=float(correct[i] / labelled[i]) if labelled[i] else None,
            frequency=float(labelled[i] / total),
            pixels=int(labelled[i]),
            others=tuple(column.get(name) for column in columns),
        )
        for i, name in enumerate(dataset.classes)
    ]


def further_columns(figures: Mapping[str, Any], dataset: Dataset) -> dict[str, Mapping[str, float | None]]:
    """Further per-class figures of eval.json, such as Dice, by column heading."""
    return {
        title.removeprefix("per class ").capitalize(): value
        for title, value in _flat({key: value for key, value in figures.items() if key not in ELSEWHERE}, dataset)
        if isinstance(value, Mapping)
    }


def further_figures(figures: Mapping[str, Any], dataset: Dataset) -> list[tuple[str, str]]:
    """(name, value) of the other numbers in eval.json."""
    rest = {key: value for key, value in figures.items() if key not in ELSEWHERE}
    return [(title, _figure(value)) for title, value in _flat(rest, dataset) if not isinstance(value, Mapping)]


def _flat(values: Mapping[str, Any], dataset: Dataset, before: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """Flattens nested mappings and joins their names; a mapping from class names is kept whole."""
    found = []
    for key, value in values.items():
        path = (*before, str(key).replace("_", " "))
        if isinstance(value, Mapping) and set(value) != set(dataset.classes):
            found += _flat(value, dataset, path)
        else:
            found.append((": ".join(path), value))
    return found


def percent(value: float | None, digits: int = 1) -> str:
    """Formats a share in [0, 1] as a percentage."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.{digits}f} %"


def _figure(value: Any) -> str:
    return percent(value, 2) if value is None or isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return str(value)
