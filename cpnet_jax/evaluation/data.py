"""The labelled images that a network is evaluated on: those of its run, or others with classes of the same names."""

import re
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_collections

from cpnet_jax.config import build
from cpnet_jax.data import builders, catalog
from cpnet_jax.data.builders import SegmentationBuilder
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.class_matching import ClassMatching, match_classes
from cpnet_jax.data.records import Example, Record, Records, decode_record, fingerprint
from cpnet_jax.data.value_range import ValueRange
from cpnet_jax.runtime import files, processes

# Characters of a folder's name in the name of its evaluation.
LONGEST_NAME = 60


@dataclass(frozen=True)
class EvaluationData:
    """Labelled images, and how they are scored by the classes of a network.

    Attributes:
      dataset: the network's classes, with the name of the data.
      split: name of the split, or of several, joined by "+".
      records: the images and their labels.
      labelled: the data's own classes, those of the records.
      matching: how the labels become the network's classes.
      name: readable, and the same for the same images and labels only; empty for those of the network's run.
      settings: what eval.json says about the data besides dataset and split.
      notes: lines for the user.
    """

    dataset: Dataset
    split: str
    records: Records
    labelled: Dataset
    matching: ClassMatching
    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def decode(self, record: Record) -> Example:
        """Decodes a record; its label then has the network's classes."""
        labelled = self.labelled
        example = decode_record(record, num_classes=len(labelled.classes), ignore_label=labelled.ignore_label)
        return {**example, "label": self.matching.apply(example["label"])}


def data_of_run(dataset: Dataset, split: str, records: Records) -> EvaluationData:
    """The evaluation split of the dataset that a network is trained on."""
    return EvaluationData(dataset, split, records, dataset, match_classes(dataset, dataset))


def open_data(
    config: ml_collections.ConfigDict,
    network: Dataset,
    run: ml_collections.ConfigDict | None = None,
    value_range: ValueRange | None = None,
) -> EvaluationData:
    """Opens the data that a config names; prepares them if needed, without asking for images to train on.

    The split is config.data.eval_split. By default it is that of the run, for the run's data; and for other data what
    their makers held out, or all images.

    Args:
      config: names the data.
      network: the network's classes.
      run: the description of its run, see `Experiment.description`; None if it is not known.
      value_range: range by which its training images of more than 8 bits were scaled.

    Raises:
      UserError: if the data are missing or faulty, lack the split, or share no class with the network.
    """
    labelled, data_dir, source = _find(config)
    matching = match_classes(labelled, network, config.eval.class_names)
    builder = processes.main_first(partial(_prepare, config, labelled, data_dir, source))
    is_known = run is not None and _was_trained_on(run, config, builder)
    split = config.data.eval_split or _default_split(builder, is_known or _has_same_source(run, config))
    data = EvaluationData(
        dataset=_scored(labelled, network),
        split=split,
        records=builders.records(builder, split),
        labelled=labelled,
        matching=matching,
    )
    is_runs = is_known and split == (run.data.eval_split or labelled.eval_split)
    if is_runs and labelled.classes == network.classes and not config.eval.class_names:
        return data
    return _described(data, config, builder, value_range)


def _find(config: ml_collections.ConfigDict) -> tuple[Dataset, str | Path, str | Path]:
    """The descriptor of the data, the folder of prepared datasets and the source."""
    data_dir, source = config.data.dir, config.data.source
    is_gone = not source or not files.as_local_path(source).exists()
    if config.data.name == catalog.folder.NAME and is_gone and not files.is_remote(data_dir):
        return builders.find_prepared(files.as_local_path(data_dir), source)
    return build.make_dataset(config), data_dir, source


def _prepare(
    config: ml_collections.ConfigDict, dataset: Dataset, data_dir: str | Path, source: str | Path
) -> SegmentationBuilder:
    return builders.prepare_for_evaluation(
        dataset,
        data_dir,
        source,
        cache=config.system.data_cache,
        skip_unreadable=config.data.on_error == "skip",
        download=config.data.download,
    )


def _was_trained_on(
    run: ml_collections.ConfigDict, config: ml_collections.ConfigDict, builder: SegmentationBuilder
) -> bool:
    """Whether a run was trained on the prepared data. Converted weights do not know: there the data's name decides."""
    if run.data.name != builder.name:
        return False
    if "fingerprint" not in run.trained_on:
        return run.data.name != catalog.folder.NAME or _has_same_source(run, config)
    split = run.data.train_split or builder.DATASET.train_split
    trained_on = run.trained_on.fingerprint
    return split in builder.info.splits and fingerprint(builders.records(builder, split)) == trained_on


def _has_same_source(run: ml_collections.ConfigDict | None, config: ml_collections.ConfigDict) -> bool:
    """Whether a run was trained on images of the same folder, as it was then."""
    if run is None or not config.data.source or not run.data.source:
        return False
    return Path(run.data.source).expanduser().resolve() == Path(config.data.source).expanduser().resolve()


def _default_split(builder: SegmentationBuilder, is_familiar: bool) -> str:
    """The split to evaluate on. Of familiar data, images that the network was trained on must not be evaluated."""
    usual = builder.DATASET.eval_split
    return usual if is_familiar and usual in builder.info.splits else builder.held_out_split()


def _scored(labelled: Dataset, network: Dataset) -> Dataset:
    """The network's classes with the name of the data, and their optional class if all other classes are the same."""
    optional = labelled.optional_class
    is_same = {*network.classes, optional} == {*labelled.classes, optional}
    return replace(network, name=labelled.name, optional_class=optional if is_same else "")


def _described(
    data: EvaluationData,
    config: ml_collections.ConfigDict,
    builder: SegmentationBuilder,
    value_range: ValueRange | None,
) -> EvaluationData:
    """The data with name, settings and notes, which those of the network's run do not need."""
    source = builder.info.metadata["source"]
    label = Path(source).name[:LONGEST_NAME] if builder.name == catalog.folder.NAME else builder.name
    name = f"{label}-{data.split}-{fingerprint(data.records, images=True)[:8]}"
    settings: dict[str, Any] = {"data": source or str(builder.data_dir)}
    if data.matching.unknown:
        settings["ignored_classes"] = list(data.matching.unknown)
    if config.eval.class_names:
        settings["class_names"] = [list(pair) for pair in config.eval.class_names]
    notes = data.matching.notes()
    if "+" in data.split and not config.data.eval_split:
        notes.append(
            f"Note: {settings['data']} has no split val or test, so all its {len(data.records)} images are evaluated; "
            f"config.data.eval_split selects one of {', '.join(sorted(builder.info.splits))}"
        )
    if value_range and builder.value_range and value_range != builder.value_range:
        notes.append(
            f"Note: images of more than 8 bits are scaled by {tuple(builder.value_range)}, and those that the network "
            f"was trained on by {tuple(value_range)}: to scale these alike, set config.data.folder.value_range to the "
            "latter"
        )
    return replace(data, name=re.sub(r"[^\w.+-]+", "_", name), settings=settings, notes=tuple(notes))
