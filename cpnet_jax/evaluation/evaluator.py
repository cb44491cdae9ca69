"""Evaluates networks on labelled images, as the config says."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt8

from cpnet_jax import losses, sharding
from cpnet_jax.config import build
from cpnet_jax.data import augment
from cpnet_jax.data.records import Example
from cpnet_jax.data.stream import examples
from cpnet_jax.evaluation.data import EvaluationData
from cpnet_jax.evaluation.evaluate import Evaluation, evaluate, merge
from cpnet_jax.evaluation.samples import PriorSample, Sample
from cpnet_jax.evaluation.window_losses import WindowLosses, compiled_losses, mean_losses
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.network import Network
from cpnet_jax.inference.predictor import Predictor, WindowBatch
from cpnet_jax.inference.prior_maps import Position, choose_positions, ideal_rows, prior_rows
from cpnet_jax.inference.settings import limits, make_protocol, windows_at_once
from cpnet_jax.runtime import processes
from cpnet_jax.runtime.progress import track

# Rows of the context prior shown per window.
PRIOR_ROWS = 3


class Validation(NamedTuple):
    """The result of an evaluation while training.

    Attributes:
      evaluation: the metrics.
      losses: the training loss and its terms, averaged over the evaluation's windows at scale 1; empty without any.
    """

    evaluation: Evaluation
    losses: dict[str, float]


class Evaluator:
    """Evaluates networks of one config on labelled images.

    Each process evaluates its share of the images on its own devices. Only the results are gathered.

    Args:
      config: of the networks' run; its section `eval` says how to evaluate.
      data: the images.
    """

    def __init__(self, config: ml_collections.ConfigDict, data: EvaluationData) -> None:
        self._config, self._data, self._dataset = config, data, data.dataset
        self.split = data.split
        self._mesh = sharding.local_mesh()
        self._protocol = make_protocol(config.eval.to_dict())
        self._batch_size = windows_at_once(config.eval.batch_size, self._mesh)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._data.records)

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
            **self._data.settings,
        }

    def evaluate(self, network: Network) -> Evaluation:
        """Evaluates every image once, at its label's own size; returns the same result on every process."""
        return self._evaluate(network, None)

    def validate(self, network: Network) -> Validation:
        """Evaluates as `evaluate`, and computes the training loss from the same outputs of the network."""
        losses = WindowLosses(
            self._losses,
            scales=tuple(self._protocol.scales),
            crop_size=tuple(self._config.data.crop_size),
            batch_size=self._batch_size // self._mesh.size,
            ignore_label=self._dataset.ignore_label,
        )
        evaluation = self._evaluate(network, losses)
        return Validation(evaluation, mean_losses(processes.gather(losses.sums())))

    def _evaluate(self, network: Network, losses: WindowLosses | None) -> Evaluation:
        def logits(windows: UInt8[Array, "b h w 3"], batch: WindowBatch) -> Float[Array, "b h/8 w/8 k"]:
            output = network(windows)
            if losses is not None:
                losses.add(output, batch)
            return output.logits

        places = processes.my_places(len(self))
        predictions = self._predictor(network).classes(self._examples(places), logits=logits)
        predictions = track(predictions, f"Evaluating on {self.split}", total=len(places))
        return merge(processes.gather(evaluate(predictions, self._dataset, start=places.start, step=places.step)))

    def samples(self, network: Network, places: Sequence[int]) -> list[Sample]:
        """The images at these places of the split, with their predictions."""
        predictions = self._predictor(network).classes(self._examples(places))
        return [self._sample(example, predicted) for example, predicted in predictions]

    def _sample(self, example: Example, predicted: UInt8[np.ndarray, "h w"]) -> Sample:
        alone = evaluate([(example, predicted)], self._dataset).as_json()
        figures = {"mIoU": alone["mIoU"], "pixel accuracy": alone["pixel_accuracy"]}
        return Sample(example["id"], example["image"], example["label"], predicted, figures)

    def prior_samples(self, network: Network, places: Sequence[int]) -> list[PriorSample]:
        """Rows of the context prior of the images' central crops; empty if the network has no context prior."""
        if not self._config.model.context_prior:
            return []
        crops = [self._central_crop(example) for example in self._examples(places)]
        shown = [self._positions(crop) for crop in crops]
        rows = self._rows(network, [crop["image"] for crop in crops], [_flat(*found) for found in shown])
        return [
            PriorSample(
                id=crop["id"],
                image=crop["image"],
                positions=tuple(positions),
                rows=found[: len(positions)].reshape(-1, *classes.shape),
                ideal=ideal_rows(classes, positions),
            )
            for crop, (positions, classes), found in zip(crops, shown, rows, strict=True)
        ]

    def _rows(
        self, network: Network, windows: list[UInt8[np.ndarray, "h w 3"]], positions: list[Int[np.ndarray, " p"]]
    ) -> Iterator[Float[np.ndarray, "p n"]]:
        """Yields the prior rows of each window at its positions."""
        inputs = list(zip(windows, positions, strict=True))
        for begin in range(0, len(inputs), self._batch_size):
            chunk = inputs[begin : begin + self._batch_size]
            # The last batch is padded with copies of its first window; their rows are dropped.
            padded = [*chunk, *[chunk[0]] * (self._batch_size - len(chunk))]
            images, places = (sharding.to_devices(self._mesh, np.stack(part)) for part in zip(*padded, strict=True))
            yield from np.asarray(self._prior_rows(network(images).prior, places))[: len(chunk)]

    def _positions(self, crop: Example) -> tuple[list[Position], Integer[np.ndarray, "h8 w8"]]:
        """The positions whose prior rows are shown, and the classes at all positions."""
        size = build.prior_size(self._config)
        classes = np.asarray(losses.downsample_labels(crop["label"][None], size)).reshape(size)
        return choose_positions(classes, PRIOR_ROWS, self._dataset.ignore_label), classes

    def _examples(self, places: Sequence[int]) -> Iterator[Example]:
        """The decoded examples at these places, at their own size."""
        data = self._data
        return examples(data.records, decode=data.decode, threads=self._config.system.threads, places=places)

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

    def _predictor(self, network: Network) -> Predictor:
        data = self._config.data
        model = TrainedModel(
            dataset=self._dataset,
            crop_size=tuple(data.crop_size),
            mean=tuple(data.mean),
            std=tuple(data.std),
            logits=lambda windows: network(windows).logits,
        )
        return Predictor(model, self._mesh, protocol=self._protocol, **limits(self._config.eval.to_dict()))

    @cached_property
    def _losses(self) -> Callable[..., dict[str, Array]]:
        return compiled_losses(build.make_loss(self._config), self._mesh)

    @cached_property
    def _prior_rows(self) -> Callable[..., Array]:
        return jax.jit(prior_rows)


def _flat(positions: Sequence[Position], classes: Integer[np.ndarray, "h8 w8"]) -> Int[np.ndarray, " p"]:
    """Row-major indices, padded with 0 to PRIOR_ROWS so that all windows have equal shapes."""
    flat = np.zeros(PRIOR_ROWS, np.int32)
    flat[: len(positions)] = [row * classes.shape[1] + column for row, column in positions]
    return flat
