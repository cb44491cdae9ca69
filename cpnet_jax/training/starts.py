"""DIR/starts.json: when and with what a run was started and resumed."""

from typing import Any

from cpnet_jax.runtime import files, provenance
from cpnet_jax.runtime.files import AnyPath

NAME = "starts.json"
# A run on preemptible machines may be resumed thousands of times: the first start and the newest ones are kept.
MOST = 200


def record(workdir: AnyPath, step: int) -> None:
    """Adds this start at a step. Raises OSError if the file cannot be written."""
    found = [*starts(workdir), {"step": step, **provenance.describe()}]
    files.write_json(workdir / NAME, found if len(found) <= MOST else [found[0], *found[1 - MOST :]])


def starts(workdir: AnyPath) -> list[dict[str, Any]]:
    """The recorded starts, oldest first; empty for a run of an earlier version, or if the file is damaged."""
    try:
        found = files.parse_json((workdir / NAME).read_bytes())
    except (OSError, ValueError):
        return []
    valid = isinstance(found, list) and all(isinstance(start, dict) and "step" in start for start in found)
    return found if valid else []
