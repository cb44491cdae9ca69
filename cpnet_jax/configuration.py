"""From a config file's fields to the parts of an experiment. The only module that reads them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections
import optax

from cpnet_jax import losses
from cpnet_jax.data.augment import augment
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.pipeline import Augmentation
from cpnet_jax.errors import UserError
from cpnet_jax.models import CPNet
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.training.optimizer import poly_schedule, poly_sgd
from cpnet_jax.training.step import Loss

# What may change when a run is resumed: none of these touches the sequence of updates.
FREE_ON_RESUME = {
    "compilation_cache",
    "eval_every",
    "checkpoint_every",
    "log_every",
    "data.dir",
    "data.source",
    "data.threads",
    "data.eval_split",
    "eval.batch_size",
    "eval.checkpoint",
    "eval.pictures",
}


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError on a field whose value cannot work."""
    crop = config.data.crop_size
    if len(crop) != 2 or any(not isinstance(side, int) or side <= 0 or side % OUTPUT_STRIDE for side in crop):
        raise UserError(
            f"config.data.crop_size is {tuple(crop)}: height and width must be positive multiples of {OUTPUT_STRIDE}"
        )
    for field in (
        "batch_size",
        "total_steps",
        "eval.batch_size",
        "optimizer.accumulate",
        "log_every",
        "checkpoint_every",
    ):
        value = _field(config, field)
        if value < 1:
            raise UserError(f"config.{field} is {value}: it must be at least 1")
    if config.batch_size % config.optimizer.accumulate:
        raise UserError(
            f"config.batch_size is {config.batch_size}: it must be a multiple of config.optimizer.accumulate, "
            f"{config.optimizer.accumulate}"
        )
    choices = {
        "model.depth": (18, 34, 50, 101),
        "model.stem": ("deep", "classic"),
        "loss.ignored": ("class", "mask"),
        "eval.checkpoint": ("latest", "best"),
    }
    for field, allowed in choices.items():
        if _field(config, field) not in allowed:
            raise UserError(f"config.{field} is {_field(config, field)!r}: it must be one of {list(allowed)}")
    if config.total_epochs is not None and config.total_epochs <= 0:
        raise UserError(f"config.total_epochs is {config.total_epochs}: it must be positive")
    scales = config.data.scales
    if not scales or any(not isinstance(scale, int | float) or scale <= 0 for scale in scales):
        raise UserError(f"config.data.scales is {tuple(scales)}: give at least one positive number")
    if config.model.aggregation_kernel % 2 == 0:
        raise UserError(f"config.model.aggregation_kernel is {config.model.aggregation_kernel}: it must be odd")


def check_dataset(config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Raises UserError where the config counts other classes than the dataset."""
    if config.data.num_classes != len(dataset.classes):
        raise UserError(
            f"config.data.num_classes is {config.data.num_classes}: {dataset.name} has {len(dataset.classes)} classes"
        )


def resolve_durations(config: ml_collections.ConfigDict, num_train: int) -> None:
    """Turns total_epochs, where given, into total_steps."""
    if config.total_epochs is not None:
        config.total_steps = max(round(config.total_epochs * num_train / config.batch_size), 1)


def as_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Plain nested values as JSON would give them back."""
    return json.loads(json.dumps(config.to_dict()))


def check_same_run(config: ml_collections.ConfigDict, saved: dict[str, Any], workdir: Path) -> None:
    """Raises UserError where a workdir's saved config differs in a field that decides what is trained."""
    ours, theirs = _flat(as_dict(config)), _flat(saved)
    differences = [
        f"config.{field} is {theirs.get(field)!r} there and {ours.get(field)!r} here"
        for field in sorted(ours.keys() | theirs.keys())
        if field not in FREE_ON_RESUME and ours.get(field) != theirs.get(field)
    ]
    if differences:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(differences)}): give the same values, "
            "or another --workdir"
        )


def prior_size(config: ml_collections.ConfigDict) -> tuple[int, int]:
    height, width = config.data.crop_size
    return height // OUTPUT_STRIDE, width // OUTPUT_STRIDE


def make_model(config: ml_collections.ConfigDict) -> CPNet:
    return CPNet(
        num_classes=config.data.num_classes,
        depth=config.model.depth,
        prior_size=prior_size(config),
        stem=config.model.stem,
        channels=config.model.channels,
        aux_channels=config.model.aux_channels,
        aggregation_kernel=config.model.aggregation_kernel,
        context_prior=config.model.context_prior,
        dropout=config.model.dropout,
        dtype=jnp.bfloat16 if config.model.bfloat16 else None,
    )


def make_loss(config: ml_collections.ConfigDict) -> Loss:
    return partial(losses.total_loss, prior_size=prior_size(config), **config.loss.to_dict())


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    fields = config.optimizer
    return poly_schedule(
        fields.base_lr,
        config.total_steps,
        power=fields.power,
        min_lr=fields.min_lr,
        warmup_steps=fields.warmup_steps,
    )


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    fields = config.optimizer
    return poly_sgd(
        make_schedule(config),
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        head_lr_multiplier=fields.head_lr_multiplier,
        decay_norm_and_bias=fields.decay_norm_and_bias,
        clip_global_norm=fields.clip_global_norm,
    )


def make_augmentation(config: ml_collections.ConfigDict, dataset: Dataset) -> Augmentation:
    return partial(
        augment,
        crop_size=tuple(config.data.crop_size),
        scales=tuple(config.data.scales),
        flip_probability=config.data.flip_probability,
        fill=config.data.mean,
        ignore_label=dataset.ignore_label,
    )


def _field(config: ml_collections.ConfigDict, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
