"""Where the records of a user's images are: DATA/folder/NAME-HASH, one folder for each source and way to read it."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpnet_jax.data.builders.base import EVALUATION
from cpnet_jax.data.catalog import folder as catalog
from cpnet_jax.errors import UserError, reason
from cpnet_jax.runtime.files import AnyPath, parse_json

METADATA = "metadata.json"  # TFDS's file with the source and the settings of prepared records
# Settings that come from the class file, in its words. The others are called as the fields of config.data.folder.
CLASS_FILE = {"values": "mask values", "colours": "mask colours", "rest": "class of '*', all other values and colours"}


def folder_name(data_dir: AnyPath, source: Path, dataset: catalog.FolderDataset) -> str:
    """The name of the folder of a source's records with a dataset's settings.

    Existing records are found by what they hold: earlier versions named their folder by the source alone.

    Args:
      data_dir: folder of all prepared datasets, may be in an object store.
      source: the user's folder or archive.
      dataset: its descriptor; see `FolderDataset.settings`.
    """
    settings = dataset.settings()
    for name, then in _prepared_from(data_dir, source):
        if not _differences(then, settings):
            return name
    asked = json.dumps([str(source), settings], sort_keys=True)
    return f"{_readable(source)}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def note_on_others(data_dir: AnyPath, source: Path, dataset: catalog.FolderDataset) -> str:
    """A sentence that names all folders of records of the same source with other settings; empty without such."""
    others = [
        f"{name} (other {', '.join(CLASS_FILE.get(setting, setting) for setting in changed)})"
        for name, then in _prepared_from(data_dir, source)
        if (changed := _differences(then, dataset.settings()))
    ]
    if not others:
        return ""
    which = "it if no run needs it" if len(others) == 1 else "those that no run needs"
    return f"{data_dir / catalog.NAME} also holds the same images as {', '.join(others)}: delete {which}"


def _prepared_from(data_dir: AnyPath, source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs of a folder's name and the settings of its records, of those that were prepared from a source."""
    for path in sorted((data_dir / catalog.NAME).glob(f"{_readable(source)}-*/*/{METADATA}")):
        found_source, settings = _read(path)
        if found_source == str(source):
            yield path.parents[1].name, settings


def _read(path: AnyPath) -> tuple[str, dict[str, Any]]:
    """The source and the settings of prepared records; empty if they are damaged, so that they are not found."""
    try:
        found = parse_json(path.read_bytes())
        return str(found["source"]), dict(found["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", {}


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [name for name in now if then.get(name) != now[name]]


def _readable(source: Path) -> str:
    return re.sub(r"[^\w.-]+", "_", source.name)


def find_prepared(data_dir: Path, source: str = "") -> tuple[catalog.FolderDataset, Path, Path]:
    """Finds the records of a folder whose source is gone or not named; returns its descriptor, data_dir and source.

    Args:
      data_dir: folder of the prepared datasets, or in it folder/ or folder/NAME-HASH.
      source: what they were prepared from; empty: anything.

    Raises:
      UserError: if it holds no such prepared folder, or several.
    """
    prepared = f"{catalog.NAME}/*/*/{METADATA}"
    below = (f"*/{METADATA}", f"*/*/{METADATA}", prepared, f"{EVALUATION}/{prepared}")
    found = [path for pattern in below for path in sorted(data_dir.glob(pattern)) if path.parts[-4] == catalog.NAME]
    missing, of_it = "config.data.source is not set", ""
    if source:
        missing, of_it = f"config.data.source is {source}, which does not exist", " of it"
        found = [path for path in found if _read(path)[0] == str(Path(source).expanduser().resolve())]
    if len(found) > 1:
        raise UserError(
            f"{missing}, and {data_dir} holds {len(found)} prepared folders{of_it}: set config.data.dir to one of "
            f"them, for example {found[0].parents[1]}"
        )
    if not found:
        raise UserError(
            f"{missing}, and {data_dir} holds no prepared folder{of_it}: set config.data.source to the folder of your "
            "images and masks"
        )
    location, settings = _read(found[0])
    try:
        return catalog.describe_prepared(settings), found[0].parents[3], Path(location)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{found[0]} is damaged ({reason(error)}): delete {found[0].parent} and run --mode=prepare again"
        ) from error
