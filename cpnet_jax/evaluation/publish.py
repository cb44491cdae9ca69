"""Writes the results of an evaluation: eval.json, the report and pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image

from cpnet_jax.data import pictures
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation import shown_images
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.evaluation.evaluator import Evaluator
from cpnet_jax.evaluation.prior_pictures import prior_panel
from cpnet_jax.evaluation.report import Training, prior, write_report
from cpnet_jax.evaluation.samples import PriorMap
from cpnet_jax.inference.network import Network
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.progress import Progress

# Images whose whole context prior is in the report: the split's first ones, the same at every evaluation.
WHOLE_PRIORS = 3
# The longer side of a panel in TensorBoard, whose files keep those of every evaluation.
LONGEST_LOGGED = 3072


def figures(evaluation: Evaluation, evaluator: Evaluator, step: int) -> dict[str, Any]:
    """The contents of eval.json."""
    return evaluation.as_json(step=step, **evaluator.settings())


def write_all(
    folder: AnyPath,
    evaluation: Evaluation,
    evaluator: Evaluator,
    network: Network,
    *,
    step: int,
    training: Training | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    panels: bool = True,
) -> Sequence[PriorMap]:
    """Writes eval.json, report/index.html and, if `panels`, the pictures of `shown_images` into a folder.

    The report shows `evaluator.pictures` images, half of them the worst and half the best. Every other one is shown
    with rows of its context prior. As many panels are written, of the split's first images, and a few of these have
    their whole context prior in the report.

    Args:
      training: how the network was trained, if that is known.
      earlier: context priors of earlier evaluations, see `report.prior.read_kept`.

    Returns:
      The context priors in the report.

    Raises:
      UserError: if a file cannot be written.
    """
    found = figures(evaluation, evaluator, step)
    worst, best = evaluation.worst_and_best(evaluator.pictures)
    with_prior = evaluator.places_with_prior([*worst[::2], *best[::2]])
    first = evaluator.first_places(evaluator.pictures if panels else 0)
    whole = evaluator.places_with_prior(evaluator.first_places(min(WHOLE_PRIORS, evaluator.pictures)))
    total = len(worst) + len(best) + len(with_prior) + len(whole) + len(first)
    with _reporting_failures(folder), Progress(total, "Drawing report", unit="picture") as progress:
        shown_images.forget(folder)
        files.write_json(folder / "eval.json", found)
        maps = list(progress.over(evaluator.prior_maps(network, whole, most=prior.POSITIONS)))
        write_report(
            folder / "report" / "index.html",
            title=evaluator.title(),
            figures=found,
            confusion=evaluation.confusion,
            dataset=evaluation.dataset,
            worst=list(progress.over(evaluator.samples(evaluation, worst))),
            best=list(progress.over(evaluator.samples(evaluation, best))),
            priors=list(progress.over(evaluator.prior_samples(network, with_prior))),
            touchable=prior.touchable(maps, evaluation.dataset, step, earlier) if maps else None,
            training=training,
        )
        kept = []
        for sample in progress.over(evaluator.samples(evaluation, first)):
            shown_images.write(folder, sample, evaluation.dataset)
            kept.append(sample.id)
        if kept:
            shown_images.write_index(folder, kept)
    return maps


def keep_priors(workdir: AnyPath, maps: Sequence[PriorMap], step: int) -> None:
    """Keeps the context priors of an evaluation for later reports; raises UserError if they cannot be written."""
    with _reporting_failures(workdir):
        prior.keep(workdir, maps, step)


@contextmanager
def _reporting_failures(workdir: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write results to {error.filename or workdir} ({error.strerror or error}): free space, fix "
            "permissions or move away what is there, then run the same command again"
        ) from error


def draw(
    show: Callable[[str, Image.Image], None],
    evaluation: Evaluation,
    evaluator: Evaluator,
    network: Network,
    *,
    count: int,
) -> None:
    """Draws predictions and prior rows of the split's first images, the same ones at every evaluation.

    Args:
      show: takes the name of a picture and the picture, as TensorBoard does.
      count: at most this many images, and at most `evaluator.pictures`.
    """
    places = evaluator.first_places(min(count, evaluator.pictures))
    with_prior = evaluator.places_with_prior(places)
    with Progress(len(places) + len(with_prior), "Drawing TensorBoard", unit="picture") as progress:
        for sample in progress.over(evaluator.samples(evaluation, places)):
            panel = pictures.panel(sample.image, sample.label, sample.prediction, evaluation.dataset)
            panel.thumbnail((LONGEST_LOGGED, LONGEST_LOGGED))
            show(f"prediction/{sample.id}", panel)
        for sample in progress.over(evaluator.prior_samples(network, with_prior)):
            show(f"context_prior/{sample.id}", prior_panel(sample))
