"""The same images with the prediction of each run: those that evaluations kept, or else computed again."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, UInt8

from cpnet_jax import sharding
from cpnet_jax.config import recorded
from cpnet_jax.config.check import check_config
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.stream import examples
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation import shown_images
from cpnet_jax.evaluation.comparison.runs import ComparedRun
from cpnet_jax.evaluation.data import open_data
from cpnet_jax.evaluation.samples import Sample
from cpnet_jax.inference.load import from_workdir
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.settings import make_predictor
from cpnet_jax.runtime.progress import Progress
from cpnet_jax.training.checkpoint import Checkpoints

Classes = UInt8[np.ndarray, "h w"]


@dataclass(frozen=True)
class ComparedImage:
    """An image with its label and the prediction of each run, in the classes of the first run.

    Attributes:
      predictions: None for a run that neither kept this image nor can predict it.
      disagreement: the largest share of labelled pixels that any two runs predict differently.
    """

    id: str
    image: UInt8[np.ndarray, "h w 3"]
    label: Classes
    predictions: tuple[Classes | None, ...]
    disagreement: float


@dataclass(frozen=True)
class ComparedImages:
    """The images to show, those that the runs disagree on first, and notes on what is missing."""

    images: tuple[ComparedImage, ...]
    notes: tuple[str, ...]


def compare_images(runs: Sequence[ComparedRun], count: int) -> ComparedImages:
    """The first images of the evaluation, `count` of them, with each run's predictions.

    A prediction that a run's evaluation kept is taken; otherwise the run's network predicts the image again. Shows the
    progress of that. Notes name what cannot be read or predicted.
    """
    notes: list[str] = []
    kept = [{sample.id: sample for sample in _kept(run, runs[0].dataset, count)} for run in runs]
    shown = _first_images(runs, kept, count, notes)
    if not shown:
        return ComparedImages((), tuple(notes))
    dataset = runs[0].dataset
    predictions = [_predictions(run, of_run, shown, dataset, notes) for run, of_run in zip(runs, kept, strict=True)]
    images = [
        ComparedImage(
            sample.id, sample.image, sample.label, found, _disagreement(found, sample.label != dataset.ignore_label)
        )
        for sample, found in zip(shown, zip(*predictions, strict=True), strict=True)
    ]
    return ComparedImages(tuple(sorted(images, key=lambda image: -image.disagreement)), tuple(notes))


def _disagreement(predictions: Sequence[Classes | None], labelled: Bool[np.ndarray, "h w"]) -> float:
    known = [prediction[labelled] for prediction in predictions if prediction is not None]
    return max((float((a != b).mean()) for a, b in itertools.combinations(known, 2) if a.size), default=0.0)


def _kept(run: ComparedRun, dataset: Dataset, count: int) -> Iterator[Sample]:
    """The images that a run's evaluation kept, in the classes of a dataset; without those that have other classes."""
    if not run.figures:
        return
    table = _class_table(run.dataset, dataset)
    for sample in shown_images.read(run.path, count):
        label, prediction = table[sample.label], table[sample.prediction]
        if (sample.prediction < len(run.dataset.classes)).all():
            yield replace(sample, label=label, prediction=prediction)


def _class_table(ours: Dataset, theirs: Dataset) -> UInt8[np.ndarray, " 256"]:
    """Class of ours -> class of the same name of theirs; all other labels -> their ignore label."""
    table = np.full(256, theirs.ignore_label, np.uint8)
    table[: len(ours.classes)] = [theirs.classes.index(name) for name in ours.classes]
    return table


def _first_images(
    runs: Sequence[ComparedRun], kept: Sequence[dict[str, Sample]], count: int, notes: list[str]
) -> list[Sample]:
    """The images to show: those that most runs kept, or the first ones of the split that a run was evaluated on."""
    most = max(kept, key=lambda of_run: sum(_same(of_run, other) for other in kept))
    if most:
        return list(most.values())
    reason = "no run has a config that says where its images are"
    for run in runs:
        if run.description:
            try:
                return list(_read_images(run, runs[0].dataset, count))
            except UserError as error:
                reason = str(error)
    notes.append(f"No images are shown: {reason}.")
    return []


def _same(kept: dict[str, Sample], other: dict[str, Sample]) -> int:
    """The number of images that both have."""
    return sum(name in other and np.array_equal(kept[name].label, other[name].label) for name in kept)


def _read_images(run: ComparedRun, dataset: Dataset, count: int) -> Iterator[Sample]:
    """Reads the first images of the run's evaluation from its prepared data; downloads nothing."""
    config = recorded.get_config(str(run.path))
    config.data.download = False
    config.data.eval_split = run.settings.get("split") or config.data.eval_split
    check_config(config)
    data = open_data(config, dataset, ml_collections.ConfigDict(dict(run.description)))
    places = range(min(count, len(data.records)))
    for example in examples(data.records, decode=data.decode, places=places):
        unknown = np.full_like(example["label"], dataset.ignore_label)
        yield Sample(example["id"], example["image"], example["label"], unknown, {})


def _predictions(
    run: ComparedRun, kept: dict[str, Sample], shown: Sequence[Sample], dataset: Dataset, notes: list[str]
) -> list[Classes | None]:
    """The run's predictions of the images, in the classes of a dataset."""
    found = [_kept_prediction(kept.get(sample.id), sample) for sample in shown]
    missing = [sample for sample, prediction in zip(shown, found, strict=True) if prediction is None]
    if not missing:
        return found
    if not run.has_network:
        notes.append(f"{run.name} has no network, and kept the predictions of {len(shown) - len(missing)} image(s).")
        return found
    try:
        predicted = iter(_predict(run, missing, dataset, notes))
    except UserError as error:  # such as a checkpoint of an older version: figures and curves are still worth showing
        notes.append(f"Predictions of {run.name} are missing: {error}.")
        return found
    return [next(predicted) if prediction is None else prediction for prediction in found]


def _kept_prediction(kept: Sample | None, sample: Sample) -> Classes | None:
    """The kept prediction if it is of the same image: names may repeat in other data."""
    same = kept is not None and np.array_equal(kept.label, sample.label)
    return kept.prediction if kept is not None and same else None


def _predict(run: ComparedRun, samples: Sequence[Sample], dataset: Dataset, notes: list[str]) -> list[Classes]:
    mesh = sharding.local_mesh()
    with Progress(len(samples), f"Predicting with {run.name}", unit="image") as progress:
        progress.begin()
        model = _load(run, mesh, notes)
        predictor = make_predictor(model, mesh, model.origin.get("eval") or {})
        table = _class_table(model.dataset, dataset)
        images: Any = ({"image": sample.image} for sample in samples)
        return [table[classes] for _, classes in progress.over(predictor.classes(images))]


def _load(run: ComparedRun, mesh: Mesh, notes: list[str]) -> TrainedModel:
    """Loads the network of the step that was evaluated, or the latest one."""
    if run.about:
        from cpnet_jax.inference.export import load_exported

        return load_exported(run.path, mesh)
    step = run.settings.get("step")
    with Checkpoints(run.path / "checkpoints", read_only=True) as checkpoints:
        steps = checkpoints.steps()
    model = from_workdir(run.path, mesh, step if step in steps else "latest")
    if run.figures and step not in steps:
        notes.append(
            f"The figures of {run.name} are those of step {step}, whose checkpoint does not exist any more; its "
            f"predictions are those of step {model.origin['step']}."
        )
    return model
