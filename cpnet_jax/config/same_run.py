"""Checks that two configs describe the same run: when resuming, and between the processes of a run.

A rule decides what may change on resume: `system.*` and `eval.*` never touch the sequence of updates. The few other
fields that may change are listed in FREE_ON_RESUME.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from cpnet_jax.config import experiments, renamed
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.files import AnyPath

FREE_SECTIONS = ("system.", "eval.")

# Fields that runs of earlier versions do not record -> what those versions did. A config file adds its own fields.
ADDED_LATER = {
    "loss.mean_over": "labelled",
    "data.download": False,
    "model.backbone": "resnet",
    "model.prior": "positions",
    "model.bfloat16_prior": False,
}

FREE_ON_RESUME = {
    "name",  # the table of an ablation names a row otherwise than `--config=TABLE.py:ROW`
    "data.dir",
    "data.source",
    "data.download",
    "data.eval_split",
    "eval_every",
    "eval_every_epochs",
    "checkpoint_every",
    "checkpoint_every_epochs",
    # They exist to let a run continue past the place where it stopped.
    "data.on_error",
    "optimizer.skip_nonfinite",
    # Used for prediction only. The fingerprint identifies the training data.
    "trained_on.palette",
    "trained_on.ignore_label",
    "trained_on.weights",
}

# Fields that may differ between the processes of a run: each host has its own disks and cores.
FREE_ON_EACH_HOST = {
    "data.dir",
    "data.source",
    "data.download",
    "system.compilation_cache",
    "system.data_cache",
    "system.threads",
    "system.workers",
    "system.batches_ahead",
}

# Weights converted from another program do not know their data, nor how many steps an epoch has.
UNKNOWN_TO_CONVERTED = {
    "trained_on.fingerprint",
    "trained_on.value_range",
    "total_steps",
    "eval_every",
    "checkpoint_every",
    "optimizer.warmup_steps",
}


def as_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as nested dicts with the values that JSON would return."""
    return json.loads(json.dumps(config.to_dict()))


def with_added_fields(saved: dict[str, Any]) -> dict[str, Any]:
    """The config of a run of an earlier version, with the fields that it does not record."""
    filled = copy.deepcopy(saved)
    for field, value in ADDED_LATER.items():
        *sections, name = field.split(".")
        section = filled
        for part in sections:
            section = section.setdefault(part, {})
        section.setdefault(name, value)
    return filled


def check_same_run(ours: dict[str, Any], saved: dict[str, Any], workdir: AnyPath) -> None:
    """Raises UserError if a workdir's run differs in a field that changes what is learned.

    Args:
      ours: the description of this run, see `Experiment.description`.
      saved: the description in the workdir's checkpoint.
      workdir: the folder of the saved run, for the message.
    """
    ours, theirs = dict(flat(ours)), ADDED_LATER | renamed.present(dict(flat(saved)))
    ours = {field: value for field, value in ours.items() if field in theirs or not _is_new_and_off(field, value)}
    free = FREE_ON_RESUME | (UNKNOWN_TO_CONVERTED if "trained_on.weights" in theirs else set())
    differences = [
        f"config.{field} is {_value(theirs, field)} there and {_value(ours, field)} here"
        for field in sorted(ours.keys() | theirs.keys())
        if field not in free and not field.startswith(FREE_SECTIONS) and ours.get(field) != theirs.get(field)
    ]
    if differences:
        raise UserError(
            f"{workdir} holds a run with another config or other data ({'; '.join(differences)}): use the same values, "
            "or name another --workdir"
        )


def check_same_everywhere(descriptions: Sequence[dict[str, Any]]) -> None:
    """Raises UserError if the processes of a run were started with different configs or data.

    Args:
      descriptions: the description of each process's run in process order, see `Experiment.description`.
    """
    first, *others = (dict(flat(description)) for description in descriptions)
    for process, other in enumerate(others, start=1):
        for field in sorted((first.keys() | other.keys()) - FREE_ON_EACH_HOST):
            if first.get(field) != other.get(field):
                raise UserError(
                    f"config.{field} is {first.get(field)!r} on process 0 and {other.get(field)!r} on process "
                    f"{process}: give all hosts the same command and the same data"
                )


def _is_new_and_off(field: str, value: Any) -> bool:
    """Whether a field that a run does not record is an extension's, and does nothing: 0, False, None or empty."""
    return not value and field not in dict(flat(experiments.default().to_dict()))


def _value(fields: dict[str, Any], field: str) -> str:
    return repr(fields[field]) if field in fields else "not recorded"


def flat(nested: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of a dotted field name and its value."""
    waiting = list(nested.items())
    while waiting:  # not recursive: a damaged file may have any depth
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += ((f"{name}.{inner}", entry) for inner, entry in value.items())
        else:
            yield name, value
