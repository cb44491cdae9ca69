"""The fields of a config that compiled programs depend on, and so the key under which the programs are stored."""

from typing import Any

import ml_collections

from cpnet_jax.config.same_run import as_dict, flat

# Fields and sections that no compiled program depends on: a run with another seed finds the programs of the first.
OTHER_FIELDS = (
    *("name", "seed", "eval_every", "eval_every_epochs", "checkpoint_every", "checkpoint_every_epochs"),
    *("data.dir", "data.source", "data.download", "data.train_split", "data.eval_split", "data.folder"),
    "data.on_error",
    *("data.scales", "data.flip_probability", "data.cat_max_ratio", "data.photometric_jitter", "data.class_uniform"),
    *("init", "eval.checkpoint", "eval.multi_scale", "eval.scales", "eval.flip", "eval.overlap", "eval.pictures"),
    *("eval.class_names", "eval.windows"),
    *("system.compilation_cache", "system.data_cache", "system.threads", "system.workers", "system.batches_ahead"),
    *("system.log_every", "system.profile_steps"),
)


def compiled_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields by name, such as "model.depth". A field that this module does not know is among them."""
    return {
        name: value
        for name, value in flat(as_dict(config))
        if not any(f"{name}.".startswith(f"{other}.") for other in OTHER_FIELDS)
    }
