"""--mode=prepare: writes the records of a dataset."""

from functools import partial
from typing import NamedTuple

import ml_collections

from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes
from cpnet_jax.data import builders, class_presence
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.records import Records
from cpnet_jax.modes import Call
from cpnet_jax.runtime import processes


def run(call: Call) -> None:
    prepare(call.config)


def prepare(config: ml_collections.ConfigDict) -> None:
    """Writes the dataset's records unless they exist; raises UserError as `open_splits` does."""
    check_config(config)
    dataset = build.make_dataset(config)
    resolve_classes(config, dataset.classes)
    builder = processes.main_first(partial(open_splits, config, dataset)).builder
    counts = ", ".join(f"{split} {info.num_examples}" for split, info in builder.info.splits.items())
    if processes.is_main_process():
        print(f"{builder.name} is ready in {builder.data_dir}: {counts}")


class Splits(NamedTuple):
    """The builder of a dataset's records, and those to train and to evaluate on."""

    builder: builders.SegmentationBuilder
    train: Records
    eval: Records


def open_splits(config: ml_collections.ConfigDict, dataset: Dataset) -> Splits:
    """Writes the records unless they exist, and opens them.

    Raises:
      UserError: if the source is missing or faulty, or a split does not exist or shows no class.
    """
    builder = prepare_records(config, dataset, config.data.source, download=config.data.download)
    train, evaluated = config.data.train_split or dataset.train_split, config.data.eval_split or dataset.eval_split
    splits = Splits(builder, builders.records(builder, train), builders.records(builder, evaluated))
    note = class_presence.check_labelled(splits.train, dataset, train)
    class_presence.check_labelled(splits.eval, dataset, evaluated)
    if note and processes.is_main_process():
        print(note, flush=True)
    return splits


def prepare_records(
    config: ml_collections.ConfigDict, dataset: Dataset, source: str = "", *, download: bool = False
) -> builders.SegmentationBuilder:
    """Writes the records where the config says, unless they exist; see `builders.prepare`."""
    return builders.prepare(
        dataset,
        config.data.dir,
        source,
        cache=config.system.data_cache,
        skip_unreadable=config.data.on_error == "skip",
        download=download,
    )
