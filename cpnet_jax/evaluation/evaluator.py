"""Evaluates training states on a split, as the config says."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from cpnet_jax import losses, sharding
from cpnet_jax.config import build
from cpnet_jax.data import augment
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.records import Example, Records, decode_record
from cpnet_jax.data.stream import examples
from cpnet_jax.evaluation.evaluate import Evaluation, evaluate, merge
from cpnet_jax.evaluation.samples import PriorSample, Sample
from cpnet_jax.evaluation.window_losses import WindowLosses, compiled_losses, mean_losses
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.network import compiled_network
from cpnet_jax.inference.predictor import Predictor, WindowBatch, usual_batch_size
from cpnet_jax.inference.prior_maps import Position, choose_positions, ideal_rows, prior_rows
from cpnet_jax.inference.settings import limits, make_protocol
from cpnet_jax.models import CPNet, CPNetOutput
from cpnet_jax.runtime import processes
from cpnet_jax.runtime.programs import Programs, Traceable
from cpnet_jax.runtime.progress import track
from cpnet_jax.training.state import TrainState

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
    """Evaluates states of a model on the records of a split; compiles once for all states.

    Each process evaluates its share of the images on its own devices. Only the results are gathered.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        dataset: Dataset,
        model: CPNet,
        split: str,
        records: Records,
        programs: Programs,
    ) -> None:
        self._config, self._dataset, self._model, self._programs = config, dataset, model, programs
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

    def start_compiling(self, state: Callable[[], TrainState]) -> None:
        """Starts to load or compile the network in the background.

        Args:
          state: returns a state, or the shapes and dtypes of one.
        """
        self._programs.start("network", lambda: self._traceable(state()))

    def evaluate(self, state: TrainState) -> Evaluation:
        """Evaluates every image once, at its label's own size; returns the same result on every process."""
        return self._evaluate(state, None)

    def validate(self, state: TrainState) -> Validation:
        """Evaluates as `evaluate`, and computes the training loss from the same outputs of the network."""
        losses = WindowLosses(
            self._losses,
            scales=tuple(self._protocol.scales),
            crop_size=tuple(self._config.data.crop_size),
            batch_size=self._batch_size // self._mesh.size,
            ignore_label=self._dataset.ignore_label,
        )
        evaluation = self._evaluate(state, losses)
        return Validation(evaluation, mean_losses(processes.gather(losses.sums())))

    def _evaluate(self, state: TrainState, losses: WindowLosses | None) -> Evaluation:
        network = self._network(state)

        def logits(windows: UInt8[Array, "b h w 3"], batch: WindowBatch) -> Float[Array, "b h/8 w/8 k"]:
            output = network(windows)
            if losses is not None:
                losses.add(output, batch)
            return output.logits

        places = processes.my_places(len(self))
        predictions = self._predictor(network).classes(self._examples(places), logits=logits)
        predictions = track(predictions, f"Evaluating on {self.split}", total=len(places))
        return merge(processes.gather(evaluate(predictions, self._dataset, start=places.start, step=places.step)))

    def samples(self, state: TrainState, places: Sequence[int]) -> list[Sample]:
        """The images at these places of the split, with their predictions."""
        predictions = self._predictor(self._network(state)).classes(self._examples(places))
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
        rows = self._rows(state, [crop["image"] for crop in crops], [_flat(*found) for found in shown])
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
        self, state: TrainState, windows: list[UInt8[np.ndarray, "h w 3"]], positions: list[Int[np.ndarray, " p"]]
    ) -> Iterator[Float[np.ndarray, "p n"]]:
        """Yields the prior rows of each window at its positions."""
        network = self._network(state)
        inputs = list(zip(windows, positions, strict=True))
        for begin in range(0, len(inputs), self._batch_size):
            chunk = inputs[begin : begin + self._batch_size]
            # The last batch is padded with copies of its first window; their rows are dropped.
            padded = [*chunk, *[chunk[0]] * (self._batch_size - len(chunk))]
            images, places = (sharding.to_devices(self._mesh, np.stack(part)) for part in zip(*padded, strict=True))
            yield from np.asarray(self._prior_rows(network(images).prior, places))[: len(chunk)]

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

    def _predictor(self, network: Callable[[UInt8[Array, "b h w 3"]], CPNetOutput]) -> Predictor:
        data = self._config.data
        model = TrainedModel(
            dataset=self._dataset,
            crop_size=tuple(data.crop_size),
            mean=tuple(data.mean),
            std=tuple(data.std),
            logits=lambda windows: network(windows).logits,
        )
        return Predictor(model, self._mesh, protocol=self._protocol, **limits(self._config.eval.to_dict()))

    def _network(self, state: TrainState) -> Callable[[UInt8[Array, "b h w 3"]], CPNetOutput]:
        """The compiled network with the variables of a state."""
        variables = sharding.on_mesh(self._mesh, _variables(state))
        return partial(self._programs.get("network", lambda: self._traceable(state)), variables)

    def _traceable(self, state: TrainState) -> Traceable:
        data, replicated = self._config.data, sharding.replicated(self._mesh)
        variables = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), _variables(state)
        )
        shape = (self._batch_size, *data.crop_size, 3)
        windows = jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharding.split(self._mesh))
        return compiled_network(self._model, self._mesh, mean=data.mean, std=data.std), (variables, windows)

    @cached_property
    def _losses(self) -> Callable[..., dict[str, Array]]:
        return compiled_losses(build.make_loss(self._config), self._mesh)

    @cached_property
    def _prior_rows(self) -> Callable[..., Array]:
        return jax.jit(prior_rows)


def _variables(state: TrainState) -> PyTree:
    return {"params": state.params, "batch_stats": state.batch_stats}


def _flat(positions: Sequence[Position], classes: Int[np.ndarray, "h8 w8"]) -> Int[np.ndarray, " p"]:
    """Row-major indices, padded with 0 to PRIOR_ROWS so that all windows have equal shapes."""
    flat = np.zeros(PRIOR_ROWS, np.int32)
    flat[: len(positions)] = [row * classes.shape[1] + column for row, column in positions]
    return flat
