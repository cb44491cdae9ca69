"""The parts of one experiment, put together from its config; what training and evaluation share."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool

from cpnet_jax import build, configuration, sharding
from cpnet_jax.data import augment, builders, pipeline, presence
from cpnet_jax.data.device_batches import DeviceBatches
from cpnet_jax.data.normalize import normalize
from cpnet_jax.data.pipeline import Example
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation.evaluate import Evaluation, evaluate, merge
from cpnet_jax.evaluation.validation_loss import Losses, compiled_losses, summed_losses
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.network import compiled_logits
from cpnet_jax.inference.predictor import Predictor
from cpnet_jax.progress import track
from cpnet_jax.training.state import TrainState, create_state
from cpnet_jax.training.step import train_step


class Experiment:
    """Data, model, optimiser and mesh of a config. Resolves the config's durations and number of classes.

    Raises:
      UserError: where the config or the data cannot work.
    """

    def __init__(self, config: ml_collections.ConfigDict) -> None:
        configuration.check(config)
        self.dataset = build.make_dataset(config)
        configuration.resolve_classes(config, self.dataset)
        self.mesh = sharding.make_mesh()
        devices = self.mesh.size
        if config.batch_size // config.optimizer.accumulate % devices:
            raise UserError(
                f"config.batch_size is {config.batch_size} in {config.optimizer.accumulate} part(s): each part must be "
                f"a multiple of the {devices} devices"
            )
        self._builder = builder = builders.prepare(self.dataset, config.data.dir, config.data.source)
        self._train_split = config.data.train_split or self.dataset.train_split
        self.train_records = builders.records(builder, self._train_split)
        self.eval_split = config.data.eval_split or self.dataset.eval_split
        self.eval_records = builders.records(builder, self.eval_split)
        configuration.resolve_durations(config, len(self.train_records))
        self.config = config
        self.model = build.make_model(config)
        self.schedule = build.make_schedule(config)
        self.tx = build.make_optimizer(config)
        self._decode = partial(
            pipeline.decode, num_classes=len(self.dataset.classes), ignore_label=self.dataset.ignore_label
        )

    def description(self) -> dict[str, Any]:
        """The resolved config, and by what the training data are recognised when a run is resumed: moved or prepared
        anew they are the same, but another folder's are not."""
        data = {"classes": list(self.dataset.classes), "fingerprint": self._fingerprint}
        return {**configuration.as_dict(self.config), "trained_on": data}

    @cached_property
    def _fingerprint(self) -> str:
        return pipeline.fingerprint(self.train_records)

    def initial_state(self) -> TrainState:
        """The state at step 0, on every device."""
        return self._create_state()

    def abstract_state(self) -> TrainState:
        """Its shapes, dtypes and shardings."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(self.mesh)),
            jax.eval_shape(self._create_state),
        )

    @cached_property
    def _create_state(self) -> Any:
        create = partial(create_state, self.model, self.tx, tuple(self.config.data.crop_size), self.config.seed)
        return jax.jit(create, out_shardings=sharding.replicated(self.mesh))

    def train_stream(self, position: int) -> DeviceBatches:
        """The global training batches from that one on, on the devices."""
        data = self.config.data
        stream = pipeline.TrainStream(
            self.train_records,
            transform=build.make_augmentation(self.config, self.dataset),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            position=position,
            process=(jax.process_index(), jax.process_count()),
            threads=data.threads,
            workers=data.workers,
            presence=self._class_presence() if data.class_uniform else None,
        )
        return DeviceBatches(self.mesh, stream, ahead=data.batches_ahead)

    def _class_presence(self) -> Bool[np.ndarray, "n classes"]:
        cache = presence.cache_file(self._builder.data_dir, self._train_split)
        return presence.class_presence(self.train_records, self.dataset, cache)

    def train_step(self) -> Any:
        """The jitted step: (state, batch) -> (state, metrics), both replicated. The state passed in is given up."""
        step = partial(
            train_step,
            model=self.model,
            loss=build.make_loss(self.config),
            tx=self.tx,
            normalize=self._normalize,
            accumulate=self.config.optimizer.accumulate,
        )
        return jax.jit(step, donate_argnums=0, out_shardings=sharding.replicated(self.mesh))

    def trained_model(self, state: TrainState) -> TrainedModel:
        """The network as it is now, on this process's devices."""
        return TrainedModel(
            dataset=self.dataset,
            crop_size=tuple(self.config.data.crop_size),
            mean=tuple(self.config.data.mean),
            std=tuple(self.config.data.std),
            logits=partial(self._logits, self._local_variables(state)),
            origin={"experiment": self.config.name, "step": int(state.step)},
        )

    def predictor(self, state: TrainState) -> Predictor:
        return Predictor(self.trained_model(state), self._local_mesh, **build.prediction_options(self.config))

    def eval_examples(self, places: Sequence[int]) -> Iterator[Example]:
        """Those of the evaluation split at these places, decoded, at their own size."""
        threads = self.config.data.threads
        return pipeline.examples(self.eval_records, decode=self._decode, threads=threads, places=places)

    def evaluate(self, state: TrainState) -> Evaluation:
        """On the evaluation split; the processes divide the images, and all of them get the result."""
        places = sharding.my_places(len(self.eval_records))
        predictions = self.predictor(state).classes(self.eval_examples(places))
        predictions = track(predictions, f"Evaluating on {self.eval_split}", total=len(places))
        return merge(sharding.gather(evaluate(predictions, self.dataset, places=places)))

    def evaluation_settings(self) -> dict[str, Any]:
        """How `evaluate` measures, for whoever reads the figures later."""
        protocol = build.make_protocol(self.config)
        return {
            "dataset": self.dataset.name,
            "split": self.eval_split,
            "multi_scale": bool(self.config.eval.multi_scale),
            "scales": list(protocol.scales),
            "flip": protocol.flip,
            "overlap": protocol.overlap,
            "window": list(self.config.data.crop_size),
        }

    def validation_loss(self, state: TrainState) -> dict[str, float]:
        """The loss and its terms on the central crops of the evaluation split: means over the images."""
        places = sharding.my_places(len(self.eval_records))
        sums, count = summed_losses(
            self._losses,
            self._local_variables(state),
            map(self.central_crop, self.eval_examples(places)),
            mesh=self._local_mesh,
            batch_size=-(-self.config.eval.batch_size // self._local_mesh.size) * self._local_mesh.size,
        )
        parts = sharding.gather((sums, count))
        images = sum(count for _, count in parts)
        return {name: sum(sums[name] for sums, count in parts if count) / images for name in parts[0][0]}

    def central_crop(self, example: Example) -> Example:
        """What the network sees of an example in one window."""
        data = self.config.data
        image, label = augment.central_crop(
            example["image"], example["label"], tuple(data.crop_size), data.mean, self.dataset.ignore_label
        )
        return {**example, "image": image, "label": label}

    def _local_variables(self, state: TrainState) -> dict[str, Any]:
        """On this process's devices: processes evaluate without waiting for one another."""
        return sharding.on_mesh(self._local_mesh, {"params": state.params, "batch_stats": state.batch_stats})

    @cached_property
    def _local_mesh(self) -> Mesh:
        return sharding.local_mesh()

    @cached_property
    def _logits(self) -> Any:
        data = self.config.data
        return compiled_logits(self.model, self._local_mesh, mean=data.mean, std=data.std)

    @cached_property
    def _losses(self) -> Losses:
        return compiled_losses(self.model, build.make_loss(self.config), self._local_mesh, normalize=self._normalize)

    @property
    def _normalize(self) -> Any:
        return partial(normalize, mean=self.config.data.mean, std=self.config.data.std)
