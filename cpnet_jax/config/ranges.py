"""Ranges of the numbers in a config.

The upper bounds are far beyond what anyone trains with. A number above them is a slip, which would end in a lack of
memory, in an overflow, or in hours of compilation.
"""

from typing import Any

MOST_STEPS = 2**31 - 1  # the step counter has 32 bits
SMALLEST_FACTOR, LARGEST_FACTOR = 1e-6, 10**6  # of what is computed in float32
LARGEST_VALUE = 1e30  # of a pixel: far from the largest float32
LARGEST_CROP = 4096  # height and width, in pixels
LARGEST_SCALE = 8
MOST_CHANNELS = 4096
LARGEST_GRID = 64  # of the pyramid pooling
LARGEST_DILATION = LARGEST_KERNEL = 999
MOST_BRANCHES = 16  # of "psp" and "aspp"
MOST_SCALES = 100

# Field -> its smallest and largest value. A field without a value (None) is not checked.
RANGES = {
    "seed": (0, 2**32 - 1),
    "batch_size": (1, 2**20),
    "total_steps": (1, MOST_STEPS),
    "eval_every": (0, MOST_STEPS),
    "checkpoint_every": (1, MOST_STEPS),
    "data.num_classes": (0, 255),
    "data.flip_probability": (0, 1),
    "data.cat_max_ratio": (0, 1),
    "data.folder.val_fraction": (0.001, 0.999),
    "model.channels": (1, MOST_CHANNELS),
    "model.aux_channels": (0, MOST_CHANNELS),
    "model.aggregation_kernel": (1, LARGEST_KERNEL),
    "model.dropout": (0, 0.999),
    "loss.aux_weight": (0, LARGEST_FACTOR),
    "loss.prior_weight": (0, LARGEST_FACTOR),
    "loss.unary_weight": (0, LARGEST_FACTOR),
    "loss.global_weight": (0, LARGEST_FACTOR),
    "loss.precision_weight": (0, LARGEST_FACTOR),
    "loss.recall_weight": (0, LARGEST_FACTOR),
    "loss.specificity_weight": (0, LARGEST_FACTOR),
    "loss.ohem_threshold": (0, 1),
    "loss.ohem_min_kept": (0, 2**31 - 1),
    "optimizer.base_lr": (0, LARGEST_FACTOR),
    "optimizer.power": (0, 1000),
    "optimizer.head_lr_multiplier": (0, LARGEST_FACTOR),
    "optimizer.min_lr": (0, LARGEST_FACTOR),
    "optimizer.warmup_steps": (0, MOST_STEPS),
    "optimizer.momentum": (0, 1),
    "optimizer.weight_decay": (0, LARGEST_FACTOR),
    "optimizer.clip_global_norm": (SMALLEST_FACTOR, LARGEST_FACTOR),
    "optimizer.accumulate": (1, 2**20),
    "optimizer.skip_nonfinite": (0, 2**31 - 2),
    "eval.batch_size": (0, 2**16),
    "eval.canvas_mib": (1, 2**20),
    "eval.pictures": (0, 1000),
    "system.threads": (0, 1024),
    "system.workers": (0, 1024),
    "system.batches_ahead": (1, 1024),
    "system.log_every": (1, MOST_STEPS),
}


def is_number(value: Any, low: float, high: float) -> bool:
    """Returns whether a value is a number from `low` to `high`; no conversion, since integers may be of any size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: Any, low: int, high: int) -> bool:
    """Returns whether a value is a whole number from `low` to `high`."""
    return isinstance(value, int) and is_number(value, low, high)
