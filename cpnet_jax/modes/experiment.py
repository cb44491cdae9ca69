"""An experiment: its data, model, optimiser and evaluator, built from a config."""

import threading
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Bool

from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, durations_need_data, resolve_classes, resolve_durations
from cpnet_jax.config.compiled_fields import compiled_fields
from cpnet_jax.config.same_run import as_dict, check_same_everywhere
from cpnet_jax.data import class_presence
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.device_batches import DeviceBatches
from cpnet_jax.data.records import fingerprint
from cpnet_jax.data.stream import TrainStream
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation.data import data_of_run
from cpnet_jax.evaluation.evaluator import Evaluator
from cpnet_jax.inference.network import CompiledNetworks, Network
from cpnet_jax.modes.prepare import open_splits
from cpnet_jax.runtime import memory, processes
from cpnet_jax.runtime.programs import Programs, Traceable
from cpnet_jax.training import finetune
from cpnet_jax.training.state import TrainState
from cpnet_jax.weights.agreement import unseen
from cpnet_jax.weights.start import StartingPoint, start_from

# Of the losses, by default.
IGNORE_LABEL = 255


def check_ignore_label(dataset: Dataset) -> None:
    """Raises UserError if a dataset has another ignore label than the losses."""
    if dataset.ignore_label != IGNORE_LABEL:
        raise UserError(
            f"dataset {dataset.name} has the ignore_label {dataset.ignore_label}: training needs {IGNORE_LABEL}, so "
            "set this in its descriptor and prepare it again"
        )


class Experiment:
    """Data, model, optimiser and mesh of a config. Resolves the config's durations and number of classes.

    Args:
      config: an unlocked config; it is changed.
      compile_step: whether to start compiling the training step in the background, while data are prepared.

    Raises:
      UserError: if the config or the data cannot work.
    """

    def __init__(self, config: ml_collections.ConfigDict, *, compile_step: bool = False) -> None:
        check_config(config)
        self.dataset = build.make_dataset(config)
        check_ignore_label(self.dataset)
        resolve_classes(config, self.dataset.classes)
        self.config = config
        self.mesh = sharding.make_mesh()
        devices = self.mesh.size
        if config.batch_size // config.optimizer.accumulate % devices:
            raise UserError(
                f"config.batch_size is {config.batch_size} in {config.optimizer.accumulate} part(s): each part must be "
                f"a multiple of the {devices} devices"
            )
        height, width = config.data.crop_size
        labelled_pixels = config.batch_size * height * width // jax.process_count()
        memory.check_fits("batch_size", config.batch_size, 4 * labelled_pixels)
        self._train_split = config.data.train_split or self.dataset.train_split
        eval_split = config.data.eval_split or self.dataset.eval_split
        self._tracing = threading.Lock()
        early = compile_step and not durations_need_data(config)
        if early:
            self._start_compiling()
        splits = processes.main_first(partial(open_splits, config, self.dataset))
        self._builder, self.train_records = splits.builder, splits.train
        resolve_durations(config, len(self.train_records))
        if compile_step and not early:
            self._start_compiling()
        self.model = build.make_model(config)
        self.schedule = jax.jit(build.make_schedule(config))
        if any(config.finetune.values()):
            # Tracing the state finds the patterns that match nothing, before anything is written.
            finetune.norms(self.abstract_state().batch_stats, config.finetune.norms_in_eval_mode)
        self.evaluator = Evaluator(config, data_of_run(self.dataset, eval_split, splits.eval))
        self._networks = CompiledNetworks(config, self.model, self._programs)
        if jax.process_count() > 1:
            check_same_everywhere(processes.gather(self.description()))

    def description(self) -> dict[str, Any]:
        """The resolved config and a description of the training data, as saved in checkpoints and config.json.

        The fingerprint identifies the data when a run is resumed: it stays the same if they are moved or prepared
        again. Classes, palette, ignore label and value range are what prediction needs.
        """
        data = {
            "classes": list(self.dataset.classes),
            "fingerprint": self._fingerprint,
            "palette": [list(colour) for colour in self.dataset.palette],
            "ignore_label": self.dataset.ignore_label,
            "value_range": self._builder.value_range and list(self._builder.value_range),
        }
        return {**as_dict(self.config), "trained_on": data}

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.train_records)

    def initial_state(self) -> TrainState:
        """The state at step 0 on every device: random, except the weights that config.init names."""
        self.abstract_state()  # traces under the lock, so that the background thread does not trace it again
        state = self._create_state()
        variables, lines = start_from(self._starting_point(), state.variables, self.mesh)
        if processes.is_main_process():
            print(*lines, sep="\n", end="\n" if lines else "")
        return replace(state, **variables)

    def _starting_point(self) -> StartingPoint:
        init, data = self.config.init, self.config.data
        return StartingPoint(
            backbone=build.backbone_file(self.config),
            checkpoint=init.checkpoint,
            skip=init.skip,
            saved_prior_size=init.prior_size,
            prior_size=build.fixed_prior_size(self.config),
            mean=tuple(data.mean),
            std=tuple(data.std),
            classes=self.dataset.classes,
            unseen=unseen(self.config),
        )

    def abstract_state(self) -> TrainState:
        """The shapes, dtypes and shardings of the state."""
        with self._tracing:  # the second thread that asks finds the trace in JAX's cache
            state = jax.eval_shape(self._create_state)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(self.mesh)), state
        )

    @cached_property
    def _create_state(self) -> Any:
        return jax.jit(build.make_create_state(self.config), out_shardings=sharding.replicated(self.mesh))

    def network(self, state: TrainState) -> Network:
        """The compiled network with the variables of a state, for evaluations."""
        return self._networks.of(state.variables)

    def start_compiling_network(self) -> None:
        """Starts to load or compile the network for evaluations in the background."""
        self._networks.start_compiling(lambda: self.abstract_state().variables)

    def train_stream(self, position: int) -> DeviceBatches:
        """The global training batches from number `position` on, moved to the devices."""
        data, system = self.config.data, self.config.system
        stream = TrainStream(
            self.train_records,
            transform=build.make_augmentation(self.config, self.dataset),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            position=position,
            process=(jax.process_index(), jax.process_count()),
            threads=system.threads,
            workers=system.workers,
            class_presence=self._class_presence() if data.class_uniform else None,
            replace_unreadable=data.on_error == "skip",
        )
        return DeviceBatches(self.mesh, stream, ahead=system.batches_ahead)

    def _class_presence(self) -> Bool[np.ndarray, "n classes"]:
        cache = class_presence.cache_file(self._builder.data_dir, self._train_split)
        say = (lambda reason: print(f"Skipped: {reason}")) if self.config.data.on_error == "skip" else None
        return class_presence.find_class_presence(self.train_records, self.dataset, cache, on_unreadable=say)

    @cached_property
    def _programs(self) -> Programs:
        return Programs(self.config.system.compilation_cache, compiled_fields(self.config))

    def _start_compiling(self) -> None:
        self._programs.start("train_step", self._traceable_step)

    def train_step(self) -> Any:
        """The compiled training step, see `build.make_train_step`."""
        return self._programs.get("train_step", self._traceable_step)

    def _traceable_step(self) -> Traceable:
        size, crop = self.config.batch_size, tuple(self.config.data.crop_size)
        shapes = {"image": (size, *crop, 3), "label": (size, *crop)}
        split = sharding.split(self.mesh)
        batch = {name: jax.ShapeDtypeStruct(shape, np.uint8, sharding=split) for name, shape in shapes.items()}
        return build.make_train_step(self.config, self.mesh), (self.abstract_state(), batch)
