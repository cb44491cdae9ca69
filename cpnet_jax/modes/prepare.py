"""--mode=prepare: writes the records of a dataset."""

from functools import partial

import ml_collections

from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes
from cpnet_jax.modes.check_data import prepared
from cpnet_jax.runtime import processes


def prepare(config: ml_collections.ConfigDict) -> None:
    """Writes the dataset's records unless they are there; UserError where the source is missing or faulty."""
    check_config(config)
    dataset = build.make_dataset(config)
    resolve_classes(config, dataset)
    builder = processes.main_first(partial(prepared, config, dataset, config.data.source))
    counts = ", ".join(f"{split} {info.num_examples}" for split, info in builder.info.splits.items())
    if processes.is_main_process():
        print(f"{builder.name} is ready in {builder.data_dir}: {counts}")
