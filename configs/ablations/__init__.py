"""Tables of experiments to compare, one table per file; benchmarks/ablation.py runs them.

A table has a base config, CONFIG, and ROWS: fields that differ from it, by the row's name. Each row is also a single
experiment:

    python main.py --config=configs/ablations/scenes.py:psp
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from cpnet_jax.errors import UserError


def with_row(
    config: ml_collections.ConfigDict, rows: Mapping[str, Mapping[str, Any]], row: str
) -> ml_collections.ConfigDict:
    """Sets a row's fields in a config and appends the row's name to the config's.

    Raises:
      UserError: if no row is named, or one that does not exist.
    """
    if not row:
        raise UserError(
            f"--config names a table of experiments: append a colon and one of its rows, as in :{next(iter(rows))} "
            f"({', '.join(rows)})"
        )
    if row not in rows:
        raise UserError(f"--config names the row {row!r}, which does not exist: use one of {', '.join(rows)}")
    config.name = f"{config.name}_{row}"
    config.update_from_flattened_dict(rows[row])
    return config
