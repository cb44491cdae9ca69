"""Checks the values of a config: types, ranges, choices and durations."""

import math
import re
from collections.abc import Sequence
from typing import Any

import ml_collections

from cpnet_jax.errors import UserError, quoted
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
    "model.backbone": tuple(BACKBONES),
    "model.depth": (18, 34, 50, 101),
    "model.stem": ("deep", "classic"),
    "model.context": ("none", *CONTEXTS),
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

# (field, smallest value, largest value)
RANGES = (
    ("seed", 0, 2**32 - 1),
    ("batch_size", 1, math.inf),
    ("total_steps", 1, math.inf),
    ("eval_every", 0, math.inf),
    ("checkpoint_every", 1, math.inf),
    ("system.log_every", 1, math.inf),
    ("data.num_classes", 0, 255),
    ("data.folder.val_fraction", 0.001, 0.999),
    ("data.flip_probability", 0, 1),
    ("data.cat_max_ratio", 0, 1),
    ("system.threads", 0, math.inf),
    ("system.workers", 0, math.inf),
    ("system.batches_ahead", 1, math.inf),
    ("model.channels", 1, math.inf),
    ("model.aux_channels", 0, math.inf),
    ("model.aggregation_kernel", 1, math.inf),
    ("model.dropout", 0, 0.999),
    ("loss.aux_weight", 0, math.inf),
    ("loss.prior_weight", 0, math.inf),
    ("loss.unary_weight", 0, math.inf),
    ("loss.global_weight", 0, math.inf),
    ("loss.precision_weight", 0, math.inf),
    ("loss.recall_weight", 0, math.inf),
    ("loss.specificity_weight", 0, math.inf),
    ("loss.ohem_threshold", 0, 1),
    ("loss.ohem_min_kept", 0, 2**31 - 1),
    ("optimizer.base_lr", 0, math.inf),
    ("optimizer.power", 0, math.inf),
    ("optimizer.head_lr_multiplier", 0, math.inf),
    ("optimizer.min_lr", 0, math.inf),
    ("optimizer.warmup_steps", 0, math.inf),
    ("optimizer.momentum", 0, 1),
    ("optimizer.weight_decay", 0, math.inf),
    ("optimizer.accumulate", 1, math.inf),
    ("optimizer.skip_nonfinite", 0, 2**31 - 2),
    ("eval.batch_size", 0, math.inf),
    ("eval.canvas_mib", 1, math.inf),
    ("eval.pictures", 0, math.inf),
)


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError on the first field whose value cannot work."""
    _check_crop(config)
    _check_paths(config)
    for field, low, high in RANGES:
        value = _field(config, field)
        if not low <= value <= high or not math.isfinite(value):
            bounds = f"a number of at least {low}" if high == math.inf else f"between {low} and {high}"
            raise UserError(f"config.{field} is {value}: it must be {bounds}")
    for field, allowed in CHOICES.items():
        if _field(config, field) not in allowed:
            raise UserError(f"config.{field} is {_field(config, field)!r}: it must be one of {list(allowed)}")
    for field in EPOCHS:
        value = _field(config, field)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"config.{field} is {value}: it must be a positive number")
    for field in ("data.scales", "eval.scales"):
        scales = _field(config, field)
        if not scales or not all(_is_finite(scale) and 0.01 <= scale <= 16 for scale in scales):
            raise UserError(f"config.{field} is {tuple(scales)}: give at least one number, each from 0.01 to 16")
    _check_class_names(config)
    _check_normalisation(config)
    _check_value_range(config)
    _check_optimizer(config)
    profiled_steps(config)
    _check_class_weights(config)
    _check_model(config)
    _check_start(config)
    _check_finetuning(config)


def _check_crop(config: ml_collections.ConfigDict) -> None:
    crop = config.data.crop_size
    if len(crop) != 2 or any(not isinstance(side, int) or side <= 0 or side % OUTPUT_STRIDE for side in crop):
        raise UserError(
            f"config.data.crop_size is {tuple(crop)}: height and width must be positive multiples of {OUTPUT_STRIDE}"
        )


def _check_paths(config: ml_collections.ConfigDict) -> None:
    if not config.name or "/" in config.name:
        raise UserError(f"config.name is {config.name!r}: it names a folder in runs/, so give a word without a slash")
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
                f"config.eval.class_names has {pair!r}: give pairs of a class of the data and the network's name for "
                "it, as in (('auto', 'car'),)"
            )
    twice = [name for name, _ in pairs if [first for first, _ in pairs].count(name) > 1]
    if twice:
        raise UserError(f"config.eval.class_names has two pairs for {twice[0]!r}: give one")


def _check_normalisation(config: ml_collections.ConfigDict) -> None:
    for field in ("data.mean", "data.std"):
        if len(_field(config, field)) != 3 or not all(map(_is_finite, _field(config, field))):
            raise UserError(f"config.{field} is {tuple(_field(config, field))}: it must be three numbers, R, G and B")
    if min(config.data.std) <= 0:
        raise UserError(f"config.data.std is {tuple(config.data.std)}: it must be positive")


def _check_value_range(config: ml_collections.ConfigDict) -> None:
    given = config.data.folder.value_range
    if given is None:
        return
    if len(given) != 2 or not all(map(_is_finite, given)) or given[0] >= given[1]:
        raise UserError(
            f"config.data.folder.value_range is {tuple(given)}: give two numbers, the lower one first, as (0, 4095)"
        )


def _check_optimizer(config: ml_collections.ConfigDict) -> None:
    clip = config.optimizer.clip_global_norm
    if clip is not None and not 0 < clip < math.inf:
        raise UserError(f"config.optimizer.clip_global_norm is {clip}: it must be positive, or left out")
    if config.batch_size % config.optimizer.accumulate:
        raise UserError(
            f"config.batch_size is {config.batch_size}: it must be a multiple of config.optimizer.accumulate, "
            f"{config.optimizer.accumulate}"
        )


def _check_model(config: ml_collections.ConfigDict) -> None:
    model = config.model
    if model.aggregation_kernel % 2 == 0:
        raise UserError(f"config.model.aggregation_kernel is {model.aggregation_kernel}: it must be odd")
    for field, example in (("pool_sizes", (1, 2, 3, 6)), ("aspp_dilations", (12, 24, 36))):
        if not model[field] or not _are_counts(model[field]):
            raise UserError(
                f"config.model.{field} is {tuple(model[field])}: give one or more positive whole numbers, as {example}"
            )
    blocks = STAGE_SIZES[model.depth][-1]
    if model.multi_grid and (len(model.multi_grid) != blocks or not _are_counts(model.multi_grid)):
        raise UserError(
            f"config.model.multi_grid is {tuple(model.multi_grid)}: give a positive whole number for each of the "
            f"{blocks} blocks in the last stage of a ResNet-{model.depth}, or leave it empty"
        )


def _check_class_weights(config: ml_collections.ConfigDict) -> None:
    weights, classes = tuple(config.loss.class_weights), config.data.num_classes
    if not weights:
        return
    if not all(_is_finite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise UserError(f"config.loss.class_weights is {weights}: give numbers of at least 0, not all 0")
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
            f"config.init.skip is {tuple(init.skip)}, but no weights are loaded: set config.init.checkpoint or "
            "config.init.backbone, or leave it empty"
        )
    size = tuple(init.prior_size)
    if size and (len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size)):
        raise UserError(
            f"config.init.prior_size is {size}: give height and width of the crop that the file was trained with, "
            f"divided by {OUTPUT_STRIDE}, or leave it empty"
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
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not _is_finite(pair[1]) or pair[1] <= 0:
            raise UserError(
                f"config.finetune.lr_multipliers has {pair!r}: give pairs of a pattern and a positive factor, as in "
                "(('backbone/.*', 0.1),); to keep parameters as they are, name them in config.finetune.freeze"
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
    """Converts the durations given in epochs to steps."""
    for epochs, steps in EPOCHS.items():
        value = _field(config, epochs)
        if value is not None:
            resolved = max(round(value * num_train / config.batch_size), 1)
            config.update_from_flattened_dict({steps: resolved})


def _are_counts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and value > 0 for value in values)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _field(config: ml_collections.ConfigDict, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config
