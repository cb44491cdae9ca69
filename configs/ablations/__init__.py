"""Tables of experiments that are compared, one file a table; benchmarks/ablation.py runs them.

A table is a config to begin with, CONFIG, and ROWS: by name, the fields in which each differs from it. Each row is an
experiment of its own, too:

    python main.py --config=configs/ablations/scenes.py:psp
"""

from collections.abc import Mapping
from typing import Any

import ml_collections


def with_row(
    config: ml_collections.ConfigDict, rows: Mapping[str, Mapping[str, Any]], row: str
) -> ml_collections.ConfigDict:
    """The config with a row's fields, named after both."""
    if row not in rows:
        raise ValueError(f"there is no row {row!r}: take one of {', '.join(rows)}")
    config.name = f"{config.name}_{row}"
    config.update_from_flattened_dict(rows[row])
    return config
