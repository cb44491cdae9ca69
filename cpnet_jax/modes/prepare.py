"""--mode=prepare: writes the records of a dataset."""

from functools import partial

import ml_collections

from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes
from cpnet_jax.data import builders
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.modes import Call
from cpnet_jax.runtime import processes


def run(call: Call) -> None:
    prepare(call.config)


def prepare(config: ml_collections.ConfigDict) -> None:
    """Writes the dataset's records unless they exist; raises UserError if the source is missing or faulty."""
    check_config(config)
    dataset = build.make_dataset(config)
    resolve_classes(config, dataset.classes)
    builder = processes.main_first(partial(prepare_records, config, dataset, config.data.source))
    counts = ", ".join(f"{split} {info.num_examples}" for split, info in builder.info.splits.items())
    if processes.is_main_process():
        print(f"{builder.name} is ready in {builder.data_dir}: {counts}")


def prepare_records(
    config: ml_collections.ConfigDict, dataset: Dataset, source: str = ""
) -> builders.SegmentationBuilder:
    """Writes the records where the config says, unless they exist; see `builders.prepare`."""
    skip = config.data.on_error == "skip"
    return builders.prepare(dataset, config.data.dir, source, cache=config.system.data_cache, skip_unreadable=skip)
