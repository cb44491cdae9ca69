"""A table: a config, and by row the fields in which the runs differ from it."""

import re
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpnet_jax.errors import UserError


@dataclass(frozen=True)
class Table:
    """What a file in configs/ablations/ says.

    Attributes:
      name: of the file.
      config: path of the config to begin with.
      rows: by name, values by dotted field.
      published: mIoU in %, of the rows for which it is known.
    """

    name: str
    config: str
    rows: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, float]


def load(name: str, folder: Path) -> Table:
    """The table of that name.

    Args:
      folder: with the files of all tables.

    Raises:
      UserError: where there is none of that name, or its file is not as it must be.
    """
    known = sorted(path.stem for path in folder.glob("[!_]*.py"))
    if name not in known:
        raise UserError(f"--table is {name}: take one of {', '.join(known)}, or add {folder}/{name}.py")
    path = folder / f"{name}.py"
    try:
        found = runpy.run_path(str(path))
    except Exception as error:
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    for part, kind in (("CONFIG", str), ("ROWS", Mapping), ("PUBLISHED", Mapping)):
        if not isinstance(found.get(part), kind):
            raise UserError(f"{path} has no {part} as it must be: see {folder}/scenes.py")
    _check_rows(found["ROWS"], path)
    return Table(name, found["CONFIG"], found["ROWS"], found["PUBLISHED"])


def _check_rows(rows: Mapping[Any, Any], path: Path) -> None:
    if not rows:
        raise UserError(f"ROWS in {path} is empty: give at least one row, as {{'full': {{}}}}")
    for row, fields in rows.items():
        # It is a folder of OUT, and is divided from others by a comma in --rows.
        if not isinstance(row, str) or not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", row):
            raise UserError(f"ROWS in {path} has {row!r}: name a row by letters, digits, and _ . + -")
        if not isinstance(fields, Mapping):
            raise UserError(f"row {row} in {path} is {fields!r}: give the fields in which it differs, {{}} for none")
