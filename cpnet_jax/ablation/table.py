"""A table: a config, and by row the fields in which the runs differ from it."""

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
      UserError: where there is none of that name.
    """
    known = sorted(path.stem for path in folder.glob("[!_]*.py"))
    if name not in known:
        raise UserError(f"--table is {name}: take one of {', '.join(known)}, or add {folder}/{name}.py")
    found = runpy.run_path(str(folder / f"{name}.py"))
    return Table(name, found["CONFIG"], found["ROWS"], found["PUBLISHED"])
