"""Collects what the comparison shows and writes the page; report/template/compare.html is its layout."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from cpnet_jax.data.catalog import Colour, Dataset
from cpnet_jax.errors import shortened
from cpnet_jax.evaluation.comparison import differences
from cpnet_jax.evaluation.comparison.differences import Kind
from cpnet_jax.evaluation.comparison.images import ComparedImage, ComparedImages
from cpnet_jax.evaluation.comparison.runs import ComparedRun, differing_fields, protocols
from cpnet_jax.evaluation.evaluate import evaluate
from cpnet_jax.evaluation.report import rows
from cpnet_jax.evaluation.report.curves import curves
from cpnet_jax.evaluation.report.environment import environment, isolated
from cpnet_jax.evaluation.report.panes import PICTURES_LIMIT, Pane, classes_over_image, pane, resized, shown_size
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.standard_streams import printable
from cpnet_jax.training.metrics import entries

KINDS = {
    Kind.BOTH_RIGHT: "both right",
    Kind.ONLY_FIRST: "only {} right",
    Kind.ONLY_OTHER: "only {} right",
    Kind.WRONG_ALIKE: "both wrong, the same class",
    Kind.WRONG_APART: "both wrong, other classes",
    Kind.IGNORED: "ignored",
}
# Longer values of config fields are cut.
LONGEST_VALUE = 200


@dataclass(frozen=True)
class ShownRun:
    """A run as the page lists it; `letter` stands for it in the tables."""

    letter: str
    name: str
    kind: str
    network: str
    crop: str
    step: str
    figures: tuple[float | None, ...]


@dataclass(frozen=True)
class ClassRow:
    """IoU of a class in each run, and its difference to that of the first; None if it is not known."""

    name: str
    colour: Colour
    values: tuple[float | None, ...]
    differences: tuple[float | None, ...]


@dataclass(frozen=True)
class ShownPrediction:
    """A run's prediction of an image: figures and, beside the prediction, the comparison with the first run's."""

    letter: str
    figures: tuple[tuple[str, str], ...]
    panes: tuple[Pane, ...]


@dataclass(frozen=True)
class ShownImage:
    """An image with its label and the predictions of all runs that have one."""

    id: str
    figures: tuple[tuple[str, str], ...]
    panes: tuple[Pane, ...]
    predictions: tuple[ShownPrediction, ...]
    legend: tuple[tuple[str, Colour], ...]


def write_comparison(path: AnyPath, runs: Sequence[ComparedRun], images: ComparedImages) -> None:
    """Writes one self-contained HTML file; replaces an existing one in one step. Raises OSError."""
    dataset, letters = runs[0].dataset, letters_of(len(runs))
    classes = class_rows(runs)
    limit = PICTURES_LIMIT // max(len(images.images) * (2 * len(runs) + 1), 1)
    logged = {
        f"{letter}: {run.name}": found
        for letter, run in zip(letters, runs, strict=True)
        if run.description and (found := entries(run.path))
    }
    page = (
        environment()
        .get_template("compare.html")
        .render(
            data=dataset.name,
            letters=letters,
            columns=[rows.HEADLINES[key] for key in rows.HEADLINES],
            runs=[_shown_run(letter, run) for letter, run in zip(letters, runs, strict=True)],
            notes=[*_notes(runs, letters), *images.notes],
            classes=classes,
            scale=max((abs(value) for row in classes for value in row.differences if value), default=1.0),
            curves=curves(logged) if logged else None,
            without_curves=[letter for letter, run in zip(letters, runs, strict=True) if not run.description],
            images=[_shown_image(image, letters, dataset, limit) for image in images.images],
            kinds=[(name.format(where), differences.COLOURS[kind]) for kind, name, where in _kind_names()],
            fields={name: [_value(value) for value in values] for name, values in differing_fields(runs).items()},
            without_config=[letter for letter, run in zip(letters, runs, strict=True) if not run.fields],
        )
    )
    # A file name may contain bytes that are not UTF-8. They become replacement characters instead of an error.
    files.write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def letters_of(count: int) -> list[str]:
    """The names of runs in tables: A, B, ... Z, then numbers."""
    return [chr(ord("A") + place) if count <= 26 else str(place + 1) for place in range(count)]


def class_rows(runs: Sequence[ComparedRun]) -> list[ClassRow]:
    """One row per class, in the order of the first run."""
    dataset = runs[0].dataset
    found = []
    for name, colour in zip(dataset.classes, dataset.palette, strict=True):
        values = tuple(run.figures.get("per_class", {}).get(name) for run in runs)
        found.append(ClassRow(name, colour, values, tuple(difference(values[0], value) for value in values[1:])))
    return found


def difference(first: float | None, other: float | None) -> float | None:
    """Other minus first; None if one is not known."""
    return None if first is None or other is None else other - first


def _kind_names() -> list[tuple[Kind, str, str]]:
    wheres = {Kind.ONLY_FIRST: "the first run", Kind.ONLY_OTHER: "this run"}
    return [(kind, name, wheres.get(kind, "")) for kind, name in KINDS.items()]


def _shown_run(letter: str, run: ComparedRun) -> ShownRun:
    kind = "exported file" if run.about else "run" if run.description else "evaluation"
    crop = (run.about or run.description.get("data", {})).get("crop_size")
    step = run.settings.get("step", run.about.get("origin", {}).get("step"))
    return ShownRun(
        letter,
        run.name,
        kind,
        _network(run.description),
        "not known" if crop is None else f"{crop[0]} x {crop[1]}",
        "not evaluated" if step is None else f"{step:,}",
        tuple(_share(run.figures.get(key)) for key in rows.HEADLINES),
    )


def _network(description: Mapping[str, Any]) -> str:
    model = description.get("model", {})
    if not model:
        return "not known"
    parts = [f"ResNet-{model.get('depth')}" if model.get("backbone", "resnet") == "resnet" else str(model["backbone"])]
    if model.get("context_prior"):
        parts.append(f"context prior ({model.get('prior', 'positions')})")
    if model.get("context", "none") != "none":
        parts.append(str(model["context"]))
    return ", ".join(parts)


def _share(value: Any) -> float | None:
    return value if isinstance(value, float | int) and 0 <= value <= 1 else None


def _notes(runs: Sequence[ComparedRun], letters: Sequence[str]) -> list[str]:
    notes = []
    for letter, run in zip(letters, runs, strict=True):
        if not run.figures:
            advice = (
                "an exported file holds no figures; --mode=eval with --model computes them"
                if run.about
                else "its training has not evaluated it yet, or --mode=eval was never run"
            )
            notes.append(f"{letter} has no figures: {advice}.")
    for name, values in protocols(runs).items():
        stated = ", ".join(
            f"{letter}: {_value(value)}"
            for letter, run, value in zip(letters, runs, values, strict=True)
            if run.figures
        )
        notes.append(f"The evaluations differ in {name} ({stated}), so their figures are not of one kind.")
    return notes


def _value(value: Any) -> str:
    return "\N{EN DASH}" if value is None else shortened(json.dumps(value, ensure_ascii=False), LONGEST_VALUE)


def _shown_image(image: ComparedImage, letters: Sequence[str], dataset: Dataset, limit: int) -> ShownImage:
    name = isolated(image.id)
    base = resized(image.image, shown_size(image.image))
    panes = (
        pane("image", name + ": the image", base, limit),
        pane("label", name + ": its label", classes_over_image(base, image.label, dataset), limit),
    )
    known = [(letter, found) for letter, found in zip(letters, image.predictions, strict=True) if found is not None]
    first = image.predictions[0]
    shown = tuple(_shown_prediction(letter, found, image, base, dataset, limit, letters[0]) for letter, found in known)
    present = sorted({*np.unique(image.label).tolist(), *chain(*(np.unique(found).tolist() for _, found in known))})
    disagreement = () if first is None else (("pixels predicted differently", rows.percent(image.disagreement)),)
    return ShownImage(
        image.id,
        disagreement if len(known) > 1 else (),
        panes,
        shown,
        tuple((dataset.classes[i], dataset.palette[i]) for i in present if i < len(dataset.classes)),
    )


def _shown_prediction(
    letter: str,
    found: np.ndarray,
    image: ComparedImage,
    base: np.ndarray,
    dataset: Dataset,
    limit: int,
    first_letter: str,
) -> ShownPrediction:
    name = isolated(image.id)
    alone = evaluate([({"label": image.label}, found)], dataset).as_json()
    figures = [("mIoU", rows.percent(alone["mIoU"])), ("pixel accuracy", rows.percent(alone["pixel_accuracy"]))]
    panes = [pane(letter, name + f": the prediction of {letter}", classes_over_image(base, found, dataset), limit)]
    first = image.predictions[0]
    if first is not None and found is not first:
        of_pixels = differences.kinds(image.label, first, found, dataset.ignore_label)
        drawn = resized(differences.picture(image.image, of_pixels), base.shape[1::-1])
        title = f"{letter} against {first_letter}"
        panes.append(pane(title, name + f": where {title} is right or wrong", drawn, limit))
        for kind, share in differences.shares(of_pixels).items():
            where = {Kind.ONLY_FIRST: first_letter, Kind.ONLY_OTHER: letter}.get(kind, "")
            if kind != Kind.BOTH_RIGHT:
                figures.append((KINDS[kind].format(where), rows.percent(share)))
    return ShownPrediction(letter, tuple(figures), tuple(panes))


def text_table(runs: Sequence[ComparedRun]) -> str:
    """A text table for a terminal: IoU of each class and mIoU in percent, with differences to the first run."""
    letters = letters_of(len(runs))
    titles = [*letters, *(f"{letter}-{letters[0]}" for letter in letters[1:])]
    of_runs = [run.figures.get("mIoU") for run in runs]
    means = (*of_runs, *(difference(of_runs[0], value) for value in of_runs[1:]))
    lines = [(row.name, (*row.values, *row.differences)) for row in class_rows(runs)]
    width = min(max(len(printable(name)) for name, _ in [*lines, ("class", ())]), 34)
    rule = "-" * (width + 8 * len(titles))
    body = [_line(name, values, width, len(runs)) for name, values in lines]
    names = [f"{letter} = {run.name}" for letter, run in zip(letters, runs, strict=True)]
    head = f"{'IoU %':<{width}}" + "".join(f"{title:>8}" for title in titles)
    return "\n".join([*names, "", head, rule, *body, rule, _line("mIoU", means, width, len(runs))])


def _line(name: str, values: Sequence[float | None], width: int, runs: int) -> str:
    shown = printable(name)
    shown = shown if len(shown) <= width else f"{shown[: width - 1]}…"
    cells = (
        "       -" if value is None else f"{100 * value:{'8.1f' if place < runs else '+8.1f'}}"
        for place, value in enumerate(values)
    )
    return f"{shown:<{width}}" + "".join(cells)
