"""Writes the results of an evaluation: eval.json, the report and pictures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from cpnet_jax.data import pictures
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.evaluation.evaluator import Evaluator
from cpnet_jax.evaluation.prior_pictures import prior_panel
from cpnet_jax.evaluation.report import write_report
from cpnet_jax.evaluation.samples import Sample
from cpnet_jax.inference.network import Network
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath


def figures(evaluation: Evaluation, evaluator: Evaluator, step: int) -> dict[str, Any]:
    """The contents of eval.json."""
    return evaluation.as_json(step=step, **evaluator.settings())


def write_figures(workdir: AnyPath, evaluation: Evaluation, evaluator: Evaluator, *, step: int) -> None:
    """Writes eval.json into the workdir; raises UserError if it cannot be written."""
    with _reporting_failures(workdir):
        files.write_json(workdir / "eval.json", figures(evaluation, evaluator, step))


def write_all(
    folder: AnyPath, evaluation: Evaluation, evaluator: Evaluator, network: Network, *, step: int, count: int
) -> None:
    """Writes eval.json, report/index.html and predictions/ID_panel.png into a folder.

    Args:
      count: number of images in the report, half of them the worst and half the best. Every other one is shown with
        rows of its context prior. As many panels are written, of the split's first images.

    Raises:
      UserError: if a file cannot be written.
    """
    found = figures(evaluation, evaluator, step)
    worst, best = chosen(evaluation, count)
    with _reporting_failures(folder):
        files.write_json(folder / "eval.json", found)
        write_report(
            folder / "report" / "index.html",
            figures=found,
            confusion=evaluation.confusion,
            dataset=evaluation.dataset,
            worst=evaluator.samples(network, worst),
            best=evaluator.samples(network, best),
            priors=evaluator.prior_samples(network, [*worst[::2], *best[::2]]),
        )
        for sample in evaluator.samples(network, range(min(count, len(evaluator)))):
            _save_panel(sample, evaluation.dataset, folder / "predictions" / f"{sample.id}_panel.png")


@contextmanager
def _reporting_failures(workdir: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write results to {error.filename or workdir} ({error.strerror or error}): free space, fix "
            "permissions or move away what is there, then run the same command again"
        ) from error


def chosen(evaluation: Evaluation, count: int) -> tuple[list[int], list[int]]:
    """Places of the worst and of the best images: `count` in total, none in both lists."""
    worst = evaluation.worst(-(-count // 2))
    best = [place for place in evaluation.best(evaluation.images) if place not in worst]
    return worst, best[: count // 2]


def _save_panel(sample: Sample, dataset: Dataset, path: AnyPath) -> None:
    with files.replacing(path) as temporary:
        pictures.panel(sample.image, sample.label, sample.prediction, dataset).save(temporary, format="PNG")


def draw(
    show: Callable[[str, Image.Image], None], evaluator: Evaluator, dataset: Dataset, network: Network, *, count: int
) -> None:
    """Draws predictions and prior rows of the split's first `count` images, the same ones at every evaluation.

    Args:
      show: takes the name of a picture and the picture, as TensorBoard does.
    """
    places = range(min(count, len(evaluator)))
    for sample in evaluator.samples(network, places):
        panel = pictures.panel(sample.image, sample.label, sample.prediction, dataset)
        show(f"prediction/{sample.id}", panel)
    for sample in evaluator.prior_samples(network, places):
        show(f"context_prior/{sample.id}", prior_panel(sample))
