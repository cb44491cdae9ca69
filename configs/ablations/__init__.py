"""Tables of experiments to compare, one table per file; benchmarks/ablation.py runs them.

A table has a base config, CONFIG, and ROWS: fields that differ from it, by the row's name. Each row is also a single
experiment:

    python main.py --config=configs/ablations/scenes.py:psp
"""

from collections.abc import Mapping
from typing import Any

import ml_collections


def with_row(
    config: ml_collections.ConfigDict, rows: Mapping[str, Mapping[str, Any]], row: str
) -> ml_collections.ConfigDict:
    """Sets a row's fields in a config and appends the row's name to the config's."""
    if row not in rows:
        raise ValueError(f"row {row!r} does not exist: use one of {', '.join(rows)}")
    config.name = f"{config.name}_{row}"
    config.update_from_flattened_dict(rows[row])
    return config
