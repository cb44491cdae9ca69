"""Whether two configs describe one and the same run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from cpnet_jax.config.check import EPOCHS
from cpnet_jax.errors import UserError

# What may differ between the processes of a run.
FREE_ON_EACH_HOST = {
    "system.compilation_cache",
    "data.dir",
    "system.data_cache",
    "data.source",
    "system.threads",
    "system.workers",
    "system.batches_ahead",
}


# What may change when a run is resumed: none of these touches the sequence of updates.
FREE_ON_RESUME = FREE_ON_EACH_HOST | {
    "eval_every",
    "checkpoint_every",
    "eval_every_epochs",
    "checkpoint_every_epochs",
    "system.log_every",
    "data.eval_split",
    # These two decide where a run would stop: so, going on past it is what they are for.
    "data.on_error",
    "optimizer.skip_nonfinite",
    # The same updates but for rounding, as on another number of devices.
    "compiler.tpu_space_to_batch",
    "model.stem_impl",
    "model.dilation_impl",
    "model.norm_impl",
    "system.remat",
    "model.prior_impl",
    "model.prior_block_rows",
    "system.profile_steps",
    "eval.batch_size",
    "eval.canvas_mib",
    "eval.checkpoint",
    "eval.flip",
    "eval.multi_scale",
    "eval.overlap",
    "eval.pictures",
    "eval.scales",
    # Told to whoever predicts; the fingerprint is what recognises labels.
    "trained_on.palette",
    "trained_on.ignore_label",
    "trained_on.weights",
}


# Fields that came when there were checkpoints already, with what was done without them.
ADDED = {
    "model": {
        "context": "none",
        "pool_sizes": [1, 2, 3, 6],
        "aspp_dilations": [12, 24, 36],
        "aggregation": True,
        "prior_contexts": "both",
        "divide_by_n": True,
        "multi_grid": [],
        "prior_impl": "blocks",
        "prior_block_rows": 0,
        "stem_impl": "auto",
        "dilation_impl": "plain",
        "norm_impl": "auto",
    },
    "loss": {
        "precision_weight": 1.0,
        "recall_weight": 1.0,
        "specificity_weight": 1.0,
        "class_weights": [],
        "ohem": False,
        "ohem_threshold": 0.7,
        "ohem_min_kept": 100_000,
    },
}


# What weights that were converted from elsewhere do not know: data, and how many steps those make.
UNKNOWN_TO_CONVERTED = {"trained_on.fingerprint", *EPOCHS.values()}


def as_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Plain nested values as JSON would give them back."""
    return json.loads(json.dumps(config.to_dict()))


def completed(saved: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's config with the fields that came after it."""
    return saved | {part: fields | saved[part] for part, fields in ADDED.items()}


def check_same_run(ours: dict[str, Any], saved: dict[str, Any], workdir: Path) -> None:
    """Raises UserError where a workdir's run differs in what decides the result.

    Args:
      ours, saved: descriptions of runs, see `Experiment.description`.
      workdir: of the saved one.
    """
    ours, theirs = _flat(ours), _flat(completed(saved))
    free = FREE_ON_RESUME | (UNKNOWN_TO_CONVERTED if "trained_on.weights" in theirs else set())
    differences = [
        f"{field} is {theirs.get(field)!r} there and {ours.get(field)!r} here"
        for field in sorted(ours.keys() | theirs.keys())
        if field not in free and ours.get(field) != theirs.get(field)
    ]
    if differences:
        raise UserError(
            f"{workdir} holds a run of another config or other data (config.{'; config.'.join(differences)}): give the "
            "same, or another --workdir"
        )


def check_same_everywhere(descriptions: Sequence[dict[str, Any]]) -> None:
    """Raises UserError where the processes of a run would not do the same.

    Args:
      descriptions: of every process's run, in their order, see `Experiment.description`.
    """
    first, *others = map(_flat, descriptions)
    for process, other in enumerate(others, start=1):
        for field in sorted((first.keys() | other.keys()) - FREE_ON_EACH_HOST):
            if first.get(field) != other.get(field):
                raise UserError(
                    f"config.{field} is {first.get(field)!r} on process 0 and {other.get(field)!r} on process "
                    f"{process}: give all hosts the same command and the same data"
                )


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
