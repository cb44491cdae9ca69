"""What an evaluation leaves behind for people: eval.json, the report, pictures."""

from pathlib import Path
from typing import Any

from cpnet_jax import files
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation import pictures
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.evaluation.evaluator import Evaluator
from cpnet_jax.evaluation.report import write_report
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
      count: how many images are shown: the worst and the best half of it in the report, as many with their prior.
    """
    found = figures(evaluation, evaluator, step)
    files.write_json(workdir / "eval.json", found)
    worst, best = chosen(evaluation, count)
    write_report(
        workdir / "report" / "index.html",
        figures=found,
        confusion=evaluation.confusion,
        dataset=evaluation.dataset,
        worst=evaluator.samples(state, worst),
        best=evaluator.samples(state, best),
        priors=evaluator.prior_samples(state, [*worst[: count // 4], *best[: count // 4]]),
    )
    for sample in evaluator.samples(state, range(min(count, len(evaluator)))):
        path = workdir / "predictions" / f"{sample.id}_panel.png"
        with files.replacing(path) as temporary:
            panel = pictures.panel(sample.image, sample.label, sample.prediction, evaluation.dataset)
            panel.save(temporary, format="PNG")


def chosen(evaluation: Evaluation, count: int) -> tuple[list[int], list[int]]:
    """Places of the worst and of the best images, `count` together; none is both."""
    ranked = evaluation.worst(evaluation.images)
    worst = ranked[: -(-count // 2)]
    return worst, ranked[len(worst) :][::-1][: count // 2]


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
        writer.picture(f"context_prior/{sample.id}", pictures.prior_panel(sample), step)
