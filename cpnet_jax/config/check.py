"""Checks the values of a config: types, ranges, choices and durations."""

import re
from collections.abc import Sequence
from typing import Any

import ml_collections

from cpnet_jax.config import experiments
from cpnet_jax.config.ranges import (
    LARGEST_CROP,
    LARGEST_DILATION,
    LARGEST_FACTOR,
    LARGEST_GRID,
    LARGEST_SCALE,
    LARGEST_VALUE,
    MOST_BRANCHES,
    MOST_SCALES,
    MOST_STEPS,
    RANGES,
    SMALLEST_FACTOR,
    is_number,
    is_whole,
)
from cpnet_jax.errors import UnknownPart, UserError, quoted
from cpnet_jax.losses import TERMS
from cpnet_jax.models.backbones import BACKBONES
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.models.resnet import STAGE_SIZES
from cpnet_jax.runtime import files
from cpnet_jax.training import patterns

# Field of a duration in epochs -> field of the same duration in steps.
EPOCHS = {
    "total_epochs": "total_steps",
    "eval_every_epochs": "eval_every",
    "checkpoint_every_epochs": "checkpoint_every",
    "optimizer.warmup_epochs": "optimizer.warmup_steps",
}


CHOICES = {
    "model.depth": (18, 34, 50, 101),
    "model.stem": ("deep", "classic"),
    "model.prior": ("positions", "pairs"),
    "model.prior_contexts": ("both", "intra", "inter"),
    "system.forms": ("auto", "cpu", "gpu", "tpu"),
    "system.remat": ("none", "blocks"),
    "loss.ignored": ("class", "mask"),
    "loss.mean_over": ("labelled", "all"),
    "eval.checkpoint": ("latest", "best"),
    "eval.overlap": ("sum", "average", "average_logits"),
    "data.on_error": ("stop", "skip"),
    "data.folder.mask_format": ("auto", "indices", "colours"),
    "data.folder.orientation": ("auto", "stored", "turned"),
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError on the first field whose value cannot work."""
    _check_crop(config)
    _check_paths(config)
    _check_ranges(config)
    for field, allowed in CHOICES.items():
        if _field(config, field) not in allowed:
            raise UserError(f"config.{field} is {quoted(_field(config, field))}: it must be one of {list(allowed)}")
    for field in ("data.scales", "eval.scales"):
        scales = tuple(_field(config, field))
        if not 0 < len(scales) <= MOST_SCALES or not all(is_number(scale, 0.01, LARGEST_SCALE) for scale in scales):
            raise UserError(
                f"config.{field} is {quoted(scales)}: give at least one number and at most {MOST_SCALES}, each from "
                f"0.01 to {LARGEST_SCALE}"
            )
    _check_class_names(config)
    _check_normalisation(config)
    _check_value_range(config)
    _check_optimizer(config)
    profiled_steps(config)
    _check_class_weights(config)
    _check_parts(config)
    _check_model(config)
    _check_start(config)
    _check_finetuning(config)


def _check_ranges(config: ml_collections.ConfigDict) -> None:
    for field, (low, high) in RANGES.items():
        value = _field(config, field)
        if value is not None and not is_number(value, low, high):
            raise UserError(f"config.{field} is {quoted(value)}: it must be between {low} and {high}")
    for field, steps in EPOCHS.items():
        value = _field(config, field)
        if value is not None and not is_number(value, SMALLEST_FACTOR, LARGEST_FACTOR):
            raise UserError(
                f"config.{field} is {quoted(value)}: it must be a positive number of at most {LARGEST_FACTOR}, or "
                f"left out for config.{steps}"
            )


def _check_crop(config: ml_collections.ConfigDict) -> None:
    crop = tuple(config.data.crop_size)
    if len(crop) != 2 or any(not is_whole(side, 1, LARGEST_CROP) or side % OUTPUT_STRIDE for side in crop):
        raise UserError(
            f"config.data.crop_size is {quoted(crop)}: height and width must be positive multiples of {OUTPUT_STRIDE}, "
            f"at most {LARGEST_CROP}"
        )


def _check_paths(config: ml_collections.ConfigDict) -> None:
    name = config.name
    if not name.isprintable() or "/" in name or name in ("", ".", "..") or len(name.encode(errors="replace")) > 200:
        raise UserError(
            f"config.name is {quoted(name)}: it names a folder in runs/, so give a word without a slash, of at most "
            "200 bytes and without control characters"
        )
    if not config.data.dir:
        raise UserError("config.data.dir is empty: name the folder for prepared datasets")
    if not files.is_remote(config.data.dir):
        files.check_is_unicode(files.as_local_path(config.data.dir), "config.data.dir")
    if not config.system.data_cache or files.is_remote(config.system.data_cache):
        raise UserError(f"config.system.data_cache is {config.system.data_cache!r}: name a folder on a local disk")
    if files.is_remote(config.data.source):
        raise UserError(
            f"config.data.source is {config.data.source}: raw files are read from local disks, so copy them here, or "
            "prepare them elsewhere with config.data.dir in the bucket"
        )


def _check_class_names(config: ml_collections.ConfigDict) -> None:
    pairs = config.eval.class_names
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise UserError(
                f"config.eval.class_names has {quoted(pair)}: give pairs of a class of the data and the network's name "
                "for it, as in (('auto', 'car'),)"
            )
    twice = [name for name, _ in pairs if [first for first, _ in pairs].count(name) > 1]
    if twice:
        raise UserError(f"config.eval.class_names has two pairs for {quoted(twice[0])}: give one")


def _check_normalisation(config: ml_collections.ConfigDict) -> None:
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    if len(mean) != 3 or not all(is_number(value, -LARGEST_VALUE, LARGEST_VALUE) for value in mean):
        raise UserError(f"config.data.mean is {quoted(mean)}: it must be three numbers, R, G and B")
    if len(std) != 3 or not all(is_number(value, SMALLEST_FACTOR, LARGEST_FACTOR) for value in std):
        raise UserError(
            f"config.data.std is {quoted(std)}: it must be three positive numbers, R, G and B, each from "
            f"{SMALLEST_FACTOR} to {LARGEST_FACTOR}"
        )


def _check_value_range(config: ml_collections.ConfigDict) -> None:
    given = config.data.folder.value_range
    if given is None:
        return
    is_pair = len(given) == 2 and all(is_number(value, -LARGEST_VALUE, LARGEST_VALUE) for value in given)
    if not is_pair or given[0] >= given[1]:
        raise UserError(
            f"config.data.folder.value_range is {quoted(tuple(given))}: give two numbers, the lower one first, "
            "as (0, 4095)"
        )


def _check_optimizer(config: ml_collections.ConfigDict) -> None:
    if config.batch_size % config.optimizer.accumulate:
        raise UserError(
            f"config.batch_size is {config.batch_size}: it must be a multiple of config.optimizer.accumulate, "
            f"{config.optimizer.accumulate}"
        )
    if config.optimizer.min_lr > config.optimizer.base_lr:
        raise UserError(
            f"config.optimizer.min_lr is {config.optimizer.min_lr}: the learning rate falls to it, so it must be at "
            f"most config.optimizer.base_lr, {config.optimizer.base_lr}"
        )


def _check_parts(config: ml_collections.ConfigDict) -> None:
    """Checks the names in tables that a config file may add to, so that they are looked up only now."""
    for field, known in {"model.backbone": [*BACKBONES], "model.context": ["none", *CONTEXTS]}.items():
        if _field(config, field) not in known:
            raise UnknownPart(
                f"config.{field} is {quoted(_field(config, field))}: use one of {known}, or give --config with the "
                "file that adds it"
            )
    terms = {f"{name}_weight" for name in TERMS} & set(config.loss)
    unknown = set(config.loss) - set(experiments.default().loss) - terms
    if unknown:
        raise UnknownPart(
            f"config.loss.{min(unknown)} belongs to no loss term: give --config with the file that adds the term to "
            "losses.TERMS"
        )
    for name in terms:
        if not is_number(config.loss[name], 0, LARGEST_FACTOR):
            raise UserError(
                f"config.loss.{name} is {quoted(config.loss[name])}: it must be between 0 and {LARGEST_FACTOR}"
            )


def _check_model(config: ml_collections.ConfigDict) -> None:
    model = config.model
    if model.aggregation_kernel % 2 == 0:
        raise UserError(f"config.model.aggregation_kernel is {model.aggregation_kernel}: it must be odd")
    for field, largest, example in (
        ("pool_sizes", LARGEST_GRID, (1, 2, 3, 6)),
        ("aspp_dilations", LARGEST_DILATION, (12, 24, 36)),
    ):
        if not 0 < len(model[field]) <= MOST_BRANCHES or not _are_counts(model[field], largest):
            raise UserError(
                f"config.model.{field} is {quoted(tuple(model[field]))}: give one or more positive whole numbers, as "
                f"{example}; at most {MOST_BRANCHES}, each at most {largest}"
            )
    blocks = STAGE_SIZES[model.depth][-1]
    multi_grid = tuple(model.multi_grid)
    if multi_grid and (len(multi_grid) != blocks or not _are_counts(multi_grid, LARGEST_DILATION)):
        raise UserError(
            f"config.model.multi_grid is {quoted(multi_grid)}: give a positive whole number, at most "
            f"{LARGEST_DILATION}, for each of the {blocks} blocks in the last stage of a ResNet-{model.depth}, as "
            f"{(1, 2, 4)[:blocks]}, or leave it empty"
        )


def _check_class_weights(config: ml_collections.ConfigDict) -> None:
    weights, classes = tuple(config.loss.class_weights), config.data.num_classes
    if not weights:
        return
    if not all(is_number(weight, 0, LARGEST_FACTOR) for weight in weights) or not any(weights):
        raise UserError(
            f"config.loss.class_weights is {quoted(weights)}: give numbers of at least 0 and at most "
            f"{LARGEST_FACTOR}, not all 0"
        )
    if classes and len(weights) != classes:  # 0 classes: the number is not known before the data are read
        raise UserError(
            f"config.loss.class_weights has {len(weights)} number(s): give one for each of the {classes} classes, or "
            "leave it empty"
        )


def _check_start(config: ml_collections.ConfigDict) -> None:
    init = config.init
    patterns.check(init.skip, "config.init.skip")
    if init.skip and not (init.backbone or init.checkpoint):
        raise UserError(
            f"config.init.skip is {quoted(tuple(init.skip))}, but no weights are loaded: set config.init.checkpoint or "
            "config.init.backbone, or leave it empty"
        )
    size = tuple(init.prior_size)
    if size and (len(size) != 2 or not _are_counts(size, LARGEST_CROP // OUTPUT_STRIDE)):
        raise UserError(
            f"config.init.prior_size is {quoted(size)}: give height and width of the crop that the file was trained "
            f"with, divided by {OUTPUT_STRIDE}, or leave it empty"
        )
    if size and not init.checkpoint:
        raise UserError(
            f"config.init.prior_size is {size}, but no context prior is loaded: set "
            "config.init.checkpoint, or leave it empty"
        )


def _check_finetuning(config: ml_collections.ConfigDict) -> None:
    finetune = config.finetune
    patterns.check(finetune.freeze, "config.finetune.freeze")
    patterns.check(finetune.norms_in_eval_mode, "config.finetune.norms_in_eval_mode")
    for pair in finetune.lr_multipliers:
        if (
            not isinstance(pair, tuple | list)
            or len(pair) != 2
            or not is_number(pair[1], SMALLEST_FACTOR, LARGEST_FACTOR)
        ):
            raise UserError(
                f"config.finetune.lr_multipliers has {quoted(pair)}: give pairs of a pattern and a positive factor, at "
                f"most {LARGEST_FACTOR}, as in (('backbone/.*', 0.1),); to keep parameters as they are, name them "
                "in config.finetune.freeze"
            )
    patterns.check([pattern for pattern, _ in finetune.lr_multipliers], "config.finetune.lr_multipliers")


def profiled_steps(config: ml_collections.ConfigDict) -> range:
    """The steps to trace by config.system.profile_steps, counted from 1; empty if the field is."""
    value = config.system.profile_steps
    if not value:
        return range(0)
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(
            f"config.system.profile_steps is {quoted(value)}: give the first and the last step to trace, counted from "
            "1, as in 10:15"
        )
    return range(int(match[1]), int(match[2]) + 1)


def resolve_classes(config: ml_collections.ConfigDict, classes: Sequence[str]) -> None:
    """Sets config.data.num_classes to the dataset's number of classes if it is 0.

    Args:
      classes: the names of the dataset's classes.

    Raises:
      UserError: if the config names another number of classes.
    """
    config.data.num_classes = config.data.num_classes or len(classes)
    if config.data.num_classes != len(classes):
        raise UserError(
            f"config.data.num_classes is {config.data.num_classes}: {config.data.name} has {len(classes)} classes, so "
            "give that number, or 0 to use it"
        )
    _check_class_weights(config)


def durations_need_data(config: ml_collections.ConfigDict) -> bool:
    """Whether a duration is given in epochs, so that `resolve_durations` needs the number of training examples."""
    return any(_field(config, epochs) is not None for epochs in EPOCHS)


def resolve_durations(config: ml_collections.ConfigDict, num_train: int) -> None:
    """Converts the durations given in epochs to steps; raises UserError if these are too many."""
    for epochs, steps in EPOCHS.items():
        value = _field(config, epochs)
        if value is not None:
            resolved = max(round(value * num_train / config.batch_size), 1)
            if resolved > MOST_STEPS:
                raise UserError(f"config.{epochs} is {value}: these are {resolved} steps, give at most {MOST_STEPS}")
            config.update_from_flattened_dict({steps: resolved})


def _are_counts(values: Sequence[Any], largest: int) -> bool:
    return all(is_whole(value, 1, largest) for value in values)


def _field(config: ml_collections.ConfigDict, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config
