"""Config fields that had another name, and what replaces them."""

from collections.abc import Mapping
from typing import Any

MOVED = {
    "compilation_cache": "system.compilation_cache",
    "log_every": "system.log_every",
    "profile.steps": "system.profile_steps",
    "data.cache": "system.data_cache",
    "data.threads": "system.threads",
    "data.workers": "system.workers",
    "data.batches_ahead": "system.batches_ahead",
    "model.remat": "system.remat",
    "model.stem_impl": "system.forms",
    "model.norm_impl": "system.forms",
    "model.prior_block_rows": "system.forms",
}
DELETED = {
    "model.dilation_impl": "convolutions are computed in one way now",
    "model.prior_impl": "the context prior is always computed in blocks of rows",
    "compiler.tpu_space_to_batch": "the compiler option is always off now",
}

# It replaces fields with other values. All of them only decided how the same numbers are computed.
REPLACES_OTHER_VALUES = "system.forms"


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run of an earlier version by their present names, without those that are gone."""
    gone = {*DELETED, *(old for old, new in MOVED.items() if new == REPLACES_OTHER_VALUES)}
    return {MOVED.get(field, field): value for field, value in fields.items() if field not in gone}


def advice(field: str) -> str | None:
    """What to do instead of setting a field of that old name; None if no field had it."""
    if field in MOVED:
        return f"it is config.{MOVED[field]} now"
    if field in DELETED:
        return f"{DELETED[field]}, so leave it out"
    return None
