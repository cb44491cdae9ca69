"""What an evaluation leaves behind for people: eval.json, the report, pictures."""

from pathlib import Path
from typing import Any

from cpnet_jax.data import pictures
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.evaluation.evaluator import Evaluator
from cpnet_jax.evaluation.prior_pictures import prior_panel
from cpnet_jax.evaluation.report import write_report
from cpnet_jax.evaluation.samples import Sample
from cpnet_jax.runtime import files
from cpnet_jax.training.metrics import MetricsWriter
from cpnet_jax.training.state import TrainState


def figures(evaluation: Evaluation, evaluator: Evaluator, step: int) -> dict[str, Any]:
    """The contents of eval.json."""
    return evaluation.as_json(step=step, **evaluator.settings())


def write_all(
    workdir: Path, evaluation: Evaluation, evaluator: Evaluator, state: TrainState, *, step: int, count: int
) -> None:
    """Writes DIR/eval.json, DIR/report/index.html and, of the split's first images, DIR/predictions/ID_panel.png.

    Args:
      count: of images with panels; as many are in the report, one half the worst, the other the best, and every other
        one of these with rows of its context prior.

    Raises:
      UserError: where they cannot be written.
    """
    found = figures(evaluation, evaluator, step)
    worst, best = chosen(evaluation, count)
    try:
        files.write_json(workdir / "eval.json", found)
        write_report(
            workdir / "report" / "index.html",
            figures=found,
            confusion=evaluation.confusion,
            dataset=evaluation.dataset,
            worst=evaluator.samples(state, worst),
            best=evaluator.samples(state, best),
            priors=evaluator.prior_samples(state, [*worst[::2], *best[::2]]),
        )
        for sample in evaluator.samples(state, range(min(count, len(evaluator)))):
            _save_panel(sample, evaluation.dataset, workdir / "predictions" / f"{sample.id}_panel.png")
    except OSError as error:
        raise UserError(
            f"what was found cannot be written to {workdir} ({error.filename}: {error.strerror}): make room "
            "or way, and give --mode=eval to do it again"
        ) from error


def chosen(evaluation: Evaluation, count: int) -> tuple[list[int], list[int]]:
    """Places of the worst and of the best images, `count` together; none is both."""
    worst = evaluation.worst(-(-count // 2))
    best = [place for place in evaluation.best(evaluation.images) if place not in worst]
    return worst, best[: count // 2]


def _save_panel(sample: Sample, dataset: Dataset, path: Path) -> None:
    with files.replacing(path) as temporary:
        pictures.panel(sample.image, sample.label, sample.prediction, dataset).save(temporary, format="PNG")


def draw(
    writer: MetricsWriter, evaluator: Evaluator, dataset: Dataset, state: TrainState, *, step: int, count: int
) -> None:
    """Puts predictions and prior rows of the split's first images on TensorBoard: always the same, to be followed."""
    places = range(min(count, len(evaluator)))
    for sample in evaluator.samples(state, places):
        writer.picture(
            f"prediction/{sample.id}", pictures.panel(sample.image, sample.label, sample.prediction, dataset), step
        )
    for sample in evaluator.prior_samples(state, places):
        writer.picture(f"context_prior/{sample.id}", prior_panel(sample), step)
