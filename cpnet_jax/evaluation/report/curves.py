"""Curves of one run or several: figures of metrics.jsonl as the JSON that template/curves.js draws."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from cpnet_jax.runtime.standard_streams import printable
from cpnet_jax.training.metrics import EVALUATED

Entry = Mapping[str, Any]  # a line of metrics.jsonl
Points = list[tuple[int, float]]  # (step, value), by ascending step


class Figure(NamedTuple):
    """What a line shows: a name, "training" or "validation", and whether its values are in [0, 1]."""

    name: str
    of: str
    is_share: bool


# A longer line is thinned to this many points: the lowest and the highest of each of half as many spans of steps.
MOST_POINTS = 1000
DIGITS = 5
# Titles in the order of the page. Other figures come after them, under the names that metrics.jsonl gives them.
TITLES = {
    "loss": "Loss",
    "mIoU": "mIoU",
    "pixel_accuracy": "Pixel accuracy",
    "mean_accuracy": "Mean accuracy",
    "segmentation": "Loss term: segmentation",
    "aux": "Loss term: auxiliary head",
    "affinity_unary": "Loss term: affinity, unary",
    "affinity_precision": "Loss term: affinity, precision",
    "affinity_recall": "Loss term: affinity, recall",
    "affinity_specificity": "Loss term: affinity, specificity",
    "lr": "Learning rate",
    "gradient_norm": "Gradient norm",
    "clamped_rows": "Clamped rows of the prior",
    "images_per_second": "Images per second",
}
# In [0, 1], beside the metrics of an evaluation.
SHARES = {"clamped_rows"}
OF_VALIDATION = "val_"
# What a section on time shows as sums.
NOT_DRAWN = "_seconds"


def curves(runs: Mapping[str, Iterable[Entry]]) -> dict[str, Any]:
    """Returns what `drawCurves` of template/curves.js draws: a panel for each figure, with a line for each run.

    Args:
      runs: the entries of each run by ascending step, by its name; see `training.metrics.entries`.

    Returns:
      JSON: "runs" are the names; "logged" is the number of points of the longest line, and "drawn" how many of them
      are drawn. Each of "panels" has a title, whether its values are shares, and lines. A line has the number of its
      run, "of" (training or validation), steps "x" and values "y".
    """
    found = [_figures(entries) for entries in runs.values()]
    names = dict.fromkeys(figure.name for figures in found for figure in figures)
    panels = [_panel(name, found) for name in sorted(names, key=_order)]
    longest = max((len(points) for figures in found for points in figures.values()), default=0)
    drawn = max((len(line["x"]) for panel in panels for line in panel["lines"]), default=0)
    return {"runs": [printable(name) for name in runs], "logged": longest, "drawn": drawn, "panels": panels}


def _figures(entries: Iterable[Entry]) -> dict[Figure, Points]:
    """The points of every figure. The last value of a step counts."""
    found: dict[Figure, dict[int, float]] = {}
    for entry in entries:
        of = "validation" if EVALUATED in entry else "training"
        for key, value in entry.items():
            if key != "step" and not key.endswith(NOT_DRAWN) and _is_number(value):
                is_metric = of == "validation" and not key.startswith(OF_VALIDATION)
                name = key.removeprefix(OF_VALIDATION)
                figure = Figure(name, of, is_metric or name in SHARES)
                found.setdefault(figure, {})[entry["step"]] = float(value)
    return {figure: sorted(points.items()) for figure, points in found.items()}


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float, in a damaged file
        return False


def _order(name: str) -> tuple[int, str]:
    return (list(TITLES).index(name) if name in TITLES else len(TITLES)), name


def _panel(name: str, found: Sequence[Mapping[Figure, Points]]) -> dict[str, Any]:
    shown = [
        (run, figure, points)
        for run, figures in enumerate(found)
        for figure, points in figures.items()
        if figure.name == name
    ]
    return {
        "title": TITLES.get(name) or printable(name.replace("_", " ").capitalize()),
        "share": all(figure.is_share for _, figure, _ in shown),
        "lines": [{"run": run, "of": figure.of, **_line(points)} for run, figure, points in shown],
    }


def _line(points: Points) -> dict[str, list[float]]:
    thinned = thin(points)
    return {"x": [step for step, _ in thinned], "y": [float(f"{value:.{DIGITS}g}") for _, value in thinned]}


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """Keeps at most `most` points, with the first, the last, and the lowest and highest of every span of steps."""
    if len(points) <= most:
        return points
    steps, values = (np.array(part) for part in zip(*points, strict=True))
    edges = np.searchsorted(steps, np.linspace(steps[0], steps[-1], (most - 2) // 2 + 1)[1:-1])
    kept = {0, len(points) - 1}
    for begin, end in pairwise([0, *edges.tolist(), len(points)]):
        if end > begin:
            span = values[begin:end]
            kept |= {begin + int(span.argmin()), begin + int(span.argmax())}
    return [points[i] for i in sorted(kept)]
