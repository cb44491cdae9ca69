"""Evaluates training states on a split, as the config says."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Int, PyTree, UInt8

from cpnet_jax import losses, sharding
from cpnet_jax.config import build
from cpnet_jax.data import augment
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.normalize import normalize
from cpnet_jax.data.records import Example, Records, decode_record
from cpnet_jax.data.stream import examples
from cpnet_jax.evaluation.evaluate import Evaluation, evaluate, merge
from cpnet_jax.evaluation.inspection import InspectionInput, Inspector
from cpnet_jax.evaluation.samples import PriorSample, Sample
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.network import compiled_logits
from cpnet_jax.inference.predictor import Predictor, usual_batch_size
from cpnet_jax.inference.prior_maps import Position, choose_positions, ideal_rows
from cpnet_jax.inference.settings import limits, make_protocol
from cpnet_jax.models import CPNet
from cpnet_jax.runtime import processes
from cpnet_jax.runtime.progress import track
from cpnet_jax.training.state import TrainState

# Rows of the context prior shown per window.
PRIOR_ROWS = 3


class Evaluator:
    """Evaluates states of a model on the records of a split; compiles once for all states.

    Each process evaluates its share of the images on its own devices. Only the results are gathered.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, dataset: Dataset, model: CPNet, split: str, records: Records
    ) -> None:
        self._config, self._dataset, self._model = config, dataset, model
        self.split, self._records = split, records
        self._mesh = sharding.local_mesh()
        self._protocol = make_protocol(config.eval.to_dict())
        self._batch_size = (config.eval.batch_size or usual_batch_size(self._mesh)) * self._mesh.size

    def __len__(self) -> int:
        """Number of images in the split."""
        return len(self._records)

    def settings(self) -> dict[str, Any]:
        """The settings of the evaluation, for eval.json."""
        protocol = self._protocol
        return {
            "experiment": self._config.name,
            "dataset": self._dataset.name,
            "split": self.split,
            "multi_scale": bool(self._config.eval.multi_scale),
            "scales": list(protocol.scales),
            "flip": protocol.flip,
            "overlap": protocol.overlap,
            "window": list(self._config.data.crop_size),
        }

    def evaluate(self, state: TrainState) -> Evaluation:
        """Evaluates every image once, at its label's own size; returns the same result on every process."""
        places = processes.my_places(len(self))
        predictions = self._predictor(state).classes(self._examples(places))
        predictions = track(predictions, f"Evaluating on {self.split}", total=len(places))
        return merge(processes.gather(evaluate(predictions, self._dataset, start=places.start, step=places.step)))

    def validation_loss(self, state: TrainState) -> dict[str, float]:
        """The loss and its terms, averaged over the images' central crops; empty for an empty split."""
        crops = map(self._central_crop, self._examples(processes.my_places(len(self))))
        unused = np.zeros(PRIOR_ROWS, np.int32)
        inputs = (InspectionInput(crop["image"], crop["label"], unused) for crop in crops)
        parts = processes.gather([found.losses for found in self._inspect(self._variables(state), inputs)])
        images = [losses for part in parts for losses in part]
        return {name: float(np.mean([losses[name] for losses in images])) for name in (images[0] if images else ())}

    def samples(self, state: TrainState, places: Sequence[int]) -> list[Sample]:
        """The images at these places of the split, with their predictions."""
        predictions = self._predictor(state).classes(self._examples(places))
        return [self._sample(example, predicted) for example, predicted in predictions]

    def _sample(self, example: Example, predicted: UInt8[np.ndarray, "h w"]) -> Sample:
        alone = evaluate([(example, predicted)], self._dataset).as_json()
        figures = {"mIoU": alone["mIoU"], "pixel accuracy": alone["pixel_accuracy"]}
        return Sample(example["id"], example["image"], example["label"], predicted, figures)

    def prior_samples(self, state: TrainState, places: Sequence[int]) -> list[PriorSample]:
        """Rows of the context prior of the images' central crops; empty if the network has no context prior."""
        if not self._model.context_prior:
            return []
        crops = [self._central_crop(example) for example in self._examples(places)]
        shown = [self._positions(crop) for crop in crops]
        inputs = [
            InspectionInput(crop["image"], crop["label"], _flat(positions, classes))
            for crop, (positions, classes) in zip(crops, shown, strict=True)
        ]
        found = self._inspect(self._variables(state), inputs)
        return [
            PriorSample(
                id=crop["id"],
                image=crop["image"],
                positions=tuple(positions),
                rows=inspection.rows[: len(positions)].reshape(-1, *classes.shape),
                ideal=ideal_rows(classes, positions),
            )
            for crop, (positions, classes), inspection in zip(crops, shown, found, strict=True)
        ]

    def _positions(self, crop: Example) -> tuple[list[Position], Int[np.ndarray, "h8 w8"]]:
        """The positions whose prior rows are shown, and the classes at all positions."""
        size = build.prior_size(self._config)
        classes = np.asarray(losses.downsample_labels(crop["label"][None], size)).reshape(size)
        return choose_positions(classes, PRIOR_ROWS, self._dataset.ignore_label), classes

    def _examples(self, places: Sequence[int]) -> Iterator[Example]:
        """The decoded examples at these places, at their own size."""
        decoder = partial(
            decode_record, num_classes=len(self._dataset.classes), ignore_label=self._dataset.ignore_label
        )
        return examples(self._records, decode=decoder, threads=self._config.system.threads, places=places)

    def _central_crop(self, example: Example) -> Example:
        """The part of an example that fits in one window."""
        image, label = augment.central_crop(
            example["image"],
            example["label"],
            tuple(self._config.data.crop_size),
            self._config.data.mean,
            self._dataset.ignore_label,
        )
        return {"id": example["id"], "image": image, "label": label}

    def _predictor(self, state: TrainState) -> Predictor:
        data = self._config.data
        model = TrainedModel(
            dataset=self._dataset,
            crop_size=tuple(data.crop_size),
            mean=tuple(data.mean),
            std=tuple(data.std),
            logits=partial(self._logits, self._variables(state)),
        )
        return Predictor(model, self._mesh, protocol=self._protocol, **limits(self._config.eval.to_dict()))

    def _variables(self, state: TrainState) -> PyTree:
        return sharding.on_mesh(self._mesh, {"params": state.params, "batch_stats": state.batch_stats})

    @cached_property
    def _logits(self) -> Any:
        return compiled_logits(self._model, self._mesh, mean=self._config.data.mean, std=self._config.data.std)

    @cached_property
    def _inspect(self) -> Inspector:
        data = self._config.data
        return Inspector(
            self._model,
            build.make_loss(self._config),
            self._mesh,
            normalize=partial(normalize, mean=data.mean, std=data.std),
            batch_size=self._batch_size,
        )


def _flat(positions: Sequence[Position], classes: Int[np.ndarray, "h8 w8"]) -> Int[np.ndarray, " p"]:
    """Row-major indices, padded with 0 to PRIOR_ROWS so that all windows have equal shapes."""
    flat = np.zeros(PRIOR_ROWS, np.int32)
    flat[: len(positions)] = [row * classes.shape[1] + column for row, column in positions]
    return flat
