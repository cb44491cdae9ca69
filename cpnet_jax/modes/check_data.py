"""--mode=check_data: checks that a dataset is sound to train on."""

import os

import ml_collections

from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes
from cpnet_jax.data import builders, downloads
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.doctor import examined_data, report
from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.examined_data import ExaminedData
from cpnet_jax.data.doctor.scan import scan
from cpnet_jax.data.doctor.sheet import contact_sheet
from cpnet_jax.errors import UserError
from cpnet_jax.modes import Call
from cpnet_jax.modes.prepare import prepare_records
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

# A data_dir without prepared records, which do not matter if raw files are examined.
NOWHERE = os.devnull


def check_data(config: ml_collections.ConfigDict, workdir: AnyPath) -> None:
    """Examines the dataset; prints a report, and writes it to DIR/check_data together with a contact sheet.

    Two tasks on the same images of a user have a folder each in it.

    Raises:
      UserError: if training would not be sound, or there is nothing to examine.
    """
    check_config(config)
    dataset = build.make_dataset(config)
    resolve_classes(config, dataset.classes)
    examined = _data_to_examine(config, dataset)
    train_split = config.data.train_split or dataset.train_split
    eval_split = config.data.eval_split or dataset.eval_split
    for field, split in (("train_split", train_split), ("eval_split", eval_split)):
        if not set(split.split("+")) <= examined.splits.keys():
            raise UserError(
                f"config.data.{field} is {split!r}, which {examined.origin} lacks: use one of {sorted(examined.splits)}"
            )
    folder = workdir / "check_data" / examined.key
    files.make_folder(folder, "--workdir")
    census = Census(examined, scan(examined, config.system.threads), train_split, eval_split)
    files.write_json(folder / "report.json", report.as_json(census))
    (folder / "sheet.png").unlink(missing_ok=True)
    written = "report.json"
    if sheet := contact_sheet(census):
        with files.replacing(folder / "sheet.png") as temporary:
            sheet.save(temporary, format="PNG")
        written += " and sheet.png"
    print(f"\n{report.as_text(census, tuple(config.data.crop_size))}\n\n{folder} holds {written}.")
    if census.faults:
        raise UserError(
            f"{examined.origin} is not sound to train on: repair the {census.faults} fault(s) listed in "
            f"{folder / 'report.json'}"
        )


def _data_to_examine(config: ml_collections.ConfigDict, dataset: Dataset) -> ExaminedData:
    """Returns the raw files if config.data.source names them, else the prepared records, else the downloaded files."""
    data_dir, source = config.data.dir, config.data.source
    if source and dataset.source_help:
        return examined_data.from_source(builders.make_builder(dataset, NOWHERE, source))
    may_be_downloaded = dataset.downloads and not files.is_remote(data_dir)
    if may_be_downloaded and not builders.make_builder(dataset, data_dir).is_prepared():
        downloaded = downloads.find(dataset, files.as_local_path(data_dir), download=False)
        return examined_data.from_source(builders.make_builder(dataset, NOWHERE, downloaded))
    return examined_data.from_records(prepare_records(config, dataset))


def run(call: Call) -> None:
    check_data(call.config, call.workdir)
