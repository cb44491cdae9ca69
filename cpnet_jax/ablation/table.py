"""Tables of configs/ablations/: a base config and rows of fields that differ from it."""

import re
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpnet_jax.errors import UserError


@dataclass(frozen=True)
class Table:
    """A table of experiments to compare.

    Attributes:
      name: of the file.
      config: path of the base config.
      rows: values by dotted field, by the row's name.
      published: mIoU in % of the rows for which it was published.
    """

    name: str
    config: str
    rows: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, float]


def load(name: str, folder: Path) -> Table:
    """Loads a table.

    Args:
      name: of the table.
      folder: with the files of all tables.

    Raises:
      UserError: if the table does not exist or its file has mistakes.
    """
    known = sorted(path.stem for path in folder.glob("[!_]*.py"))
    if name not in known:
        raise UserError(f"--table is {name}: use one of {', '.join(known)}, or add {folder}/{name}.py")
    path = folder / f"{name}.py"
    try:
        found = runpy.run_path(str(path))
    except Exception as error:
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    for part, kind in (("CONFIG", str), ("ROWS", Mapping), ("PUBLISHED", Mapping)):
        if not isinstance(found.get(part), kind):
            raise UserError(f"{path} must define {part}, a {kind.__name__}: see {folder}/scenes.py for an example")
    _check_rows(found["ROWS"], path)
    return Table(name, found["CONFIG"], found["ROWS"], found["PUBLISHED"])


def _check_rows(rows: Mapping[Any, Any], path: Path) -> None:
    if not rows:
        raise UserError(f"ROWS in {path} is empty: add at least one row, for example {{'full': {{}}}}")
    for row, fields in rows.items():
        # The name becomes a folder, and --rows separates names by commas.
        if not isinstance(row, str) or not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", row):
            raise UserError(f"ROWS in {path} has {row!r}: a row's name may have letters, digits, and _ . + -")
        if not isinstance(fields, Mapping):
            raise UserError(f"row {row} in {path} is {fields!r}: it must be a dict of fields, {{}} for none")
