"""Collects everything the report shows and writes the page; template/page.html is its layout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image

from cpnet_jax.data import pictures
from cpnet_jax.data.catalog import Colour, Dataset
from cpnet_jax.evaluation import prior_pictures
from cpnet_jax.evaluation.report import rows
from cpnet_jax.evaluation.report.environment import environment, isolated
from cpnet_jax.evaluation.report.matrix import draw_matrix, frequent_confusions
from cpnet_jax.evaluation.report.panes import PICTURES_LIMIT, Pane, classes_over_image, pane, resized, shown_size
from cpnet_jax.evaluation.report.training import Training
from cpnet_jax.evaluation.samples import PriorSample, Sample
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

ERROR_COLOURS = {
    "right": pictures.RIGHT_COLOUR,
    "wrong": pictures.WRONG_COLOUR,
    "ignored": pictures.IGNORED_COLOUR,
}


@dataclass(frozen=True)
class ShownImage:
    """An image of the evaluation as the page shows it."""

    id: str
    figures: tuple[tuple[str, str], ...]
    panes: tuple[Pane, ...]
    legend: tuple[tuple[str, Colour], ...]


@dataclass(frozen=True)
class PriorRow:
    """A row of the prior as the page shows it; its figures are the affinity loss's, for this row."""

    number: int
    position: tuple[int, int]
    figures: tuple[tuple[str, str], ...]
    panes: tuple[Pane, ...]


@dataclass(frozen=True)
class ShownPrior:
    """A window and rows of its context prior as the page shows them."""

    id: str
    grid: tuple[int, int]
    window: Pane
    rows: tuple[PriorRow, ...]


def write_report(
    path: AnyPath,
    *,
    title: tuple[str, str],
    figures: Mapping[str, Any],
    confusion: Int64[np.ndarray, "k k"],
    dataset: Dataset,
    worst: Sequence[Sample] = (),
    best: Sequence[Sample] = (),
    priors: Sequence[PriorSample] = (),
    touchable: Mapping[str, Any] | None = None,
    training: Training | None = None,
) -> None:
    """Writes one self-contained HTML file under 10 MB; replaces an existing one in one step.

    Args:
      title: the names of the network and of the data.
      figures: the contents of eval.json. Unknown names are shown, too: numbers in a table, mappings from class names
        as columns.
      confusion: pixels by (true class, predicted class).
      worst, best: images to show, in this order.
      priors: windows with rows of their context prior.
      touchable: whole context priors, see `prior.touchable`.
      training: how the network was trained; None if that is not known.

    Raises:
      ValueError: if the confusion matrix does not have one row per class of the dataset.
    """
    classes = len(dataset.classes)
    if confusion.shape != (classes, classes):
        raise ValueError(f"the confusion matrix has shape {confusion.shape}, but {dataset.name} has {classes} classes")
    shown = 4 * (len(worst) + len(best)) + sum(1 + 2 * len(sample.positions) for sample in priors)
    limit = PICTURES_LIMIT // max(shown, 1)
    template = environment().get_template("page.html")
    page = template.render(
        network=title[0],
        data=title[1],
        headlines=rows.headlines(figures),
        settings=rows.settings(figures),
        further=rows.further_figures(figures, dataset),
        columns=list(rows.further_columns(figures, dataset)),
        absent=figures.get("absent_classes", []),
        classes=rows.class_rows(figures, confusion, dataset),
        matrix=draw_matrix(confusion, dataset.classes),
        confusion=confusion.tolist(),
        confusions=frequent_confusions(confusion),
        groups=[
            ("Worst images", "by mIoU, the worst first", [_shown(sample, dataset, limit) for sample in worst]),
            ("Best images", "by mIoU, the best first", [_shown(sample, dataset, limit) for sample in best]),
        ],
        priors=[_shown_prior(sample, limit) for sample in priors],
        touchable=touchable,
        training=training,
        error_colours=ERROR_COLOURS,
        heat=prior_pictures.heat(np.linspace(0, 1, 12)[None])[0].tolist(),
    )
    # A file name may contain bytes that are not UTF-8. They become replacement characters instead of an error.
    files.write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def _shown(sample: Sample, dataset: Dataset, limit: int) -> ShownImage:
    size = shown_size(sample.image)
    image = resized(sample.image, size)
    label, prediction = (classes_over_image(image, classes, dataset) for classes in (sample.label, sample.prediction))
    errors = pictures.error_map(sample.image, sample.label, sample.prediction, dataset.ignore_label)
    panes = {
        "image": (image, "the image"),
        "label": (label, "its label, in the colours of its classes"),
        "prediction": (prediction, "the prediction, in the colours of its classes"),
        "error": (resized(errors, size), "which pixels are right, wrong and ignored"),
    }
    present = sorted({*np.unique(sample.label).tolist(), *np.unique(sample.prediction).tolist()})
    return ShownImage(
        sample.id,
        tuple((name, rows.percent(value)) for name, value in sample.figures.items()),
        tuple(pane(title, isolated(sample.id) + f": {alt}", pixels, limit) for title, (pixels, alt) in panes.items()),
        tuple((dataset.classes[i], dataset.palette[i]) for i in present if i != dataset.ignore_label),
    )


def _shown_prior(sample: PriorSample, limit: int) -> ShownPrior:
    grid = sample.rows.shape[1:]
    marked = prior_pictures.marked(sample.image, sample.positions, grid)
    name = isolated(sample.id)
    window = pane("window", name + ": the window, with numbers on the positions", marked, limit)
    found = []
    for number, (position, row) in enumerate(zip(sample.positions, sample.rows, strict=True), start=1):
        where = name + f", position {number}"
        panes = [pane("prior", where + ": row of the prior", _row_picture(sample, row, number), limit)]
        figures = ()
        if sample.ideal is not None:
            ideal = sample.ideal[number - 1]
            panes.append(pane("ideal", where + ": ideal row", _row_picture(sample, ideal, number), limit))
            figures = _row_figures(row, ideal)
        found.append(PriorRow(number, position, figures, tuple(panes)))
    return ShownPrior(sample.id, grid, window, tuple(found))


def _row_picture(sample: PriorSample, row: Float[np.ndarray, "h w"], number: int) -> Image.Image:
    return prior_pictures.prior_row(sample.image, row, sample.positions[number - 1], number)


def _row_figures(row: Float[np.ndarray, "h w"], ideal: Float[np.ndarray, "h w"]) -> tuple[tuple[str, str], ...]:
    """Precision, recall and specificity of the row, as in the affinity loss but with the diagonal included."""
    p, a = row.astype(np.float64), ideal.astype(np.float64)
    shares = {
        "precision": ((p * a).sum(), p.sum()),
        "recall": ((p * a).sum(), a.sum()),
        "specificity": (((1 - p) * (1 - a)).sum(), (1 - a).sum()),
    }
    return tuple((name, rows.percent(part / whole if whole else None)) for name, (part, whole) in shares.items())
