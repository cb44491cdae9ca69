"""Evaluates networks on labelled images, as the config says."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt8

from cpnet_jax import losses, sharding
from cpnet_jax.config import build
from cpnet_jax.data import augment, catalog
from cpnet_jax.data.records import Example
from cpnet_jax.data.stream import examples
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation.data import EvaluationData
from cpnet_jax.evaluation.evaluate import Evaluation, evaluate, merge
from cpnet_jax.evaluation.kept_predictions import KeptPredictions, merged
from cpnet_jax.evaluation.samples import PriorMap, PriorSample, Sample
from cpnet_jax.evaluation.window_losses import WindowLosses, compiled_losses, mean_losses
from cpnet_jax.inference.cutting import WindowBatch
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.network import Network
from cpnet_jax.inference.predictor import Inputs, Predictor, check_windows
from cpnet_jax.inference.prior_maps import Position, choose_positions, ideal_rows, prior_rows, sample_priors
from cpnet_jax.inference.settings import check_batch_fits, make_predictor, make_protocol, windows_at_once
from cpnet_jax.inference.windows import scaled_size, window_offsets
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
      network_name: for people; by default `build.network_name`.
      any_size: whether the networks take images of any size; by default what the config says.

    Raises:
      UserError: if the config asks for whole images, and the networks take windows only.

    Attributes:
      split: name of the split.
      pictures: number of images that pictures show.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        data: EvaluationData,
        *,
        network_name: str = "",
        any_size: bool | None = None,
    ) -> None:
        self._config, self._data, self._dataset = config, data, data.dataset
        self._network_name = network_name or build.network_name(config)
        self.split = data.split
        self.pictures: int = config.eval.pictures
        self._mesh = sharding.local_mesh()
        settings = config.eval.to_dict()
        self._any_size = build.make_model(config).takes_any_size if any_size is None else any_size
        check_windows(config.eval.windows, any_size=self._any_size)
        check_batch_fits(settings, tuple(config.data.crop_size), self._mesh)
        self._protocol = make_protocol(settings)
        self._batch_size = windows_at_once(config.eval.batch_size, self._mesh)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._data.records)

    def windows(self) -> int:
        """About how many windows an evaluation has, as if all images were as large as the first; 0 if it is damaged.

        A whole image counts as one at each scale.
        """
        try:
            size = next(self._examples(range(1)))["label"].shape
        except UserError:  # the evaluation itself reports it
            return 0
        sides = list(zip(size, self._config.data.crop_size, strict=True))
        flips = 2 if self._protocol.flip else 1
        if not self._config.eval.windows:
            return len(self) * flips * len(self._protocol.scales)
        of_an_image = sum(
            math.prod(len(window_offsets(scaled_size(side, scale), crop)) for side, crop in sides)
            for scale in self._protocol.scales
        )
        return len(self) * flips * of_an_image

    def title(self) -> tuple[str, str]:
        """The network, with its experiment, and the data; own images by the name of their folder or archive."""
        experiment = self._config.name
        source = self._data.settings.get("data") or self._config.data.source
        data = catalog.folder.readable_name(self._dataset.name, source)
        is_named_after_data = experiment in (self._dataset.name, data)
        return self._network_name if is_named_after_data else f"{experiment}: {self._network_name}", data

    def settings(self) -> dict[str, Any]:
        """The settings of the evaluation, for eval.json."""
        protocol, windows = self._protocol, self._config.eval.windows
        return {
            "experiment": self._config.name,
            "dataset": self._dataset.name,
            "split": self.split,
            "multi_scale": bool(self._config.eval.multi_scale),
            "scales": list(protocol.scales),
            "flip": protocol.flip,
            "overlap": protocol.overlap,
            "windows": windows,
            "window": list(self._config.data.crop_size) if windows else None,
            **self._data.settings,
        }

    def evaluate(self, network: Network) -> Evaluation:
        """Evaluates every image once, at its label's own size; returns the same result on every process."""
        return self._evaluate(network, None)

    def validate(self, network: Network) -> Validation:
        """Evaluates as `evaluate`, and computes the training loss from the same outputs of the network."""
        losses = WindowLosses(self._losses, ignore_label=self._dataset.ignore_label)
        evaluation = self._evaluate(network, losses)
        return Validation(evaluation, mean_losses(processes.gather(losses.sums())))

    def _evaluate(self, network: Network, losses: WindowLosses | None) -> Evaluation:
        def logits(inputs: Inputs, batch: WindowBatch) -> Float[Array, "b h/8 w/8 k"]:
            output = network(*inputs)
            if losses is not None:
                losses.add(output, batch, *inputs[1:])
            return output.logits

        places, keep = processes.my_places(len(self)), KeptPredictions(self.pictures)
        predictions = self._predictor(network).classes(self._examples(places), logits=logits)
        predictions = track(predictions, f"Evaluating on {self.split}", total=len(places), announce=True)
        part = evaluate(predictions, self._dataset, start=places.start, step=places.step, keep=keep)
        whole = merge(processes.gather(part))
        shown = {*self.first_places(self.pictures), *itertools.chain(*whole.worst_and_best(self.pictures))}
        return replace(whole, predictions=merged(processes.gather(keep.take(shown))))

    def first_places(self, count: int) -> range:
        """Places of the split's first `count` images, or of all if there are fewer."""
        return range(min(count, len(self)))

    def samples(self, evaluation: Evaluation, places: Sequence[int]) -> Iterator[Sample]:
        """Yields the images at these places of the split with their predictions, which the evaluation has kept."""
        for place, example in zip(places, self._examples(places), strict=True):
            yield self._sample(example, evaluation.predictions[place].unpack())

    def _sample(self, example: Example, predicted: UInt8[np.ndarray, "h w"]) -> Sample:
        alone = evaluate([(example, predicted)], self._dataset).as_json()
        figures = {"mIoU": alone["mIoU"], "pixel accuracy": alone["pixel_accuracy"]}
        return Sample(example["id"], example["image"], example["label"], predicted, figures)

    def places_with_prior(self, places: Sequence[int]) -> Sequence[int]:
        """The places, or none if the network has no context prior."""
        return places if self._config.model.context_prior else ()

    def prior_samples(self, network: Network, places: Sequence[int]) -> Iterator[PriorSample]:
        """Yields rows of the context prior of the images' central crops; only for `places_with_prior`."""
        crops = [self._central_crop(example) for example in self._examples(places)]
        shown = [self._positions(crop) for crop in crops]
        rows = self._rows(network, [crop["image"] for crop in crops], [_flat(*found) for found in shown])
        for crop, (positions, classes), found in zip(crops, shown, rows, strict=True):
            yield PriorSample(
                id=crop["id"],
                image=crop["image"],
                positions=tuple(positions),
                rows=found[: len(positions)].reshape(-1, *classes.shape),
                ideal=ideal_rows(classes, positions),
            )

    def prior_maps(self, network: Network, places: Sequence[int], *, most: int) -> Iterator[PriorMap]:
        """Yields the whole context prior of the images' central crops at `most` positions or fewer; otherwise as
        `prior_samples`."""
        crops = [self._central_crop(example) for example in self._examples(places)]
        for begin in range(0, len(crops), self._batch_size):
            chunk = crops[begin : begin + self._batch_size]
            shown = [self._positions(crop) for crop in chunk]
            # Copies of the first window fill the last batch.
            padded = [*range(len(chunk)), *[0] * (self._batch_size - len(chunk))]
            images = sharding.to_devices(self._mesh, np.stack([chunk[i]["image"] for i in padded]))
            classes = np.stack([shown[i][1] for i in padded])
            grid = classes.shape[1:]
            flat = classes.reshape(len(padded), -1)
            prior: Any = network(images).prior
            priors = sample_priors(prior, grid, most, flat)
            for crop, (positions, found), prior in zip(chunk, shown, priors, strict=False):
                yield PriorMap(crop["id"], crop["image"], found, tuple(positions), prior)

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
            logits=lambda *inputs: network(*inputs).logits,
            any_size=self._any_size,
        )
        return make_predictor(model, self._mesh, self._config.eval.to_dict())

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
