"""--mode=check_data: examines a dataset without a network."""

from pathlib import Path

import ml_collections

from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes
from cpnet_jax.data import builders
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.doctor import report
from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.scan import scan
from cpnet_jax.data.doctor.sheet import contact_sheet
from cpnet_jax.data.doctor.subject import Subject, prepared_subject, raw_subject
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files


def check_data(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Examines the dataset; prints a report, and leaves it in DIR/check_data with a contact sheet to look at.

    Raises:
      UserError: where training would not be sound, or there is nothing to examine.
    """
    check_config(config)
    dataset = build.make_dataset(config)
    resolve_classes(config, dataset)
    subject = _subject(config, dataset)
    train_split = config.data.train_split or dataset.train_split
    eval_split = config.data.eval_split or dataset.eval_split
    for field, split in (("train_split", train_split), ("eval_split", eval_split)):
        if split not in subject.splits:
            raise UserError(
                f"config.data.{field} is {split!r}, which {subject.origin} lacks: take one of {sorted(subject.splits)}"
            )
    folder = workdir / "check_data"
    files.make_folder(folder, "--workdir")
    census = Census(subject, scan(subject, config.system.threads), train_split, eval_split)
    files.write_json(folder / "report.json", report.as_json(census))
    (folder / "sheet.png").unlink(missing_ok=True)
    written = "report.json"
    if sheet := contact_sheet(census):
        with files.replacing(folder / "sheet.png") as temporary:
            sheet.save(temporary, format="PNG")
        written += ", and sheet.png to look at"
    print(f"\n{report.as_text(census, tuple(config.data.crop_size))}\n\n{folder} holds {written}.")
    if census.faults:
        raise UserError(
            f"{subject.origin} is not sound to train on: repair what {folder / 'report.json'} lists as faults, "
            f"{census.faults} in all"
        )


def prepared(config: ml_collections.ConfigDict, dataset: Dataset, source: str = "") -> builders.SegmentationBuilder:
    return builders.prepare(dataset, config.data.dir, source, cache=config.system.data_cache)


def _subject(config: ml_collections.ConfigDict, dataset: Dataset) -> Subject:
    """The raw source where one is named and is made of pairs of files, the prepared records otherwise."""
    builder = builders.make_builder(dataset, config.data.dir, config.data.source)
    if builder.source_path is not None:
        return raw_subject(builder)
    return prepared_subject(prepared(config, dataset))
