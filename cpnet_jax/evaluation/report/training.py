"""What a workdir says about the training of a network: curves, time, config, versions and hardware."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpnet_jax.config import experiments, renamed
from cpnet_jax.config.same_run import ADDED_LATER, as_dict, flat
from cpnet_jax.errors import quoted, shortened
from cpnet_jax.evaluation.report import times
from cpnet_jax.evaluation.report.curves import curves
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.training import starts
from cpnet_jax.training.metrics import entries

LONGEST_VALUE = 300
LONGEST_COMMAND = 8000


@dataclass(frozen=True)
class Training:
    """The training of a network as the page shows it.

    Attributes:
      curves: for template/curves.js, see `curves.curves`; None without metrics.
      time: (part, duration, share in [0, 1]).
      config: (field, default, value) of the fields that differ from configs/default.py.
      seed: of the config; None if it is not recorded.
      surroundings: (name, value) of the newest start: versions and hardware.
      command, commit: of the newest start; empty if not recorded.
      started_at: the steps at which the program was started.
    """

    curves: Mapping[str, Any] | None = None
    time: tuple[tuple[str, str, float], ...] = ()
    config: tuple[tuple[str, str, str], ...] = ()
    seed: str | None = None
    surroundings: tuple[tuple[str, str], ...] = ()
    command: str = ""
    commit: str = ""
    started_at: tuple[str, ...] = ()


def read_training(workdir: AnyPath, latest: Mapping[str, Any] | None = None) -> Training:
    """Reads DIR/metrics.jsonl, config.json and starts.json. What is missing or damaged is left out.

    Args:
      workdir: DIR.
      latest: an entry that will be written to metrics.jsonl after the report.
    """
    logged = [*entries(workdir), *([latest] if latest else [])]
    recorded = _config(workdir)
    found = starts.starts(workdir)
    newest = found[-1] if found else {}
    command = newest.get("command")
    drawn = curves({"": logged})
    return Training(
        curves=drawn if drawn["panels"] else None,
        time=tuple((part.name, times.duration(part.seconds), part.share) for part in times.parts(logged)),
        config=tuple(differences(recorded)),
        seed=_text(recorded["seed"]) if "seed" in recorded else None,
        surroundings=tuple(_surroundings(newest)),
        command=shortened(command, LONGEST_COMMAND) if isinstance(command, str) else "",
        commit=_commit(newest),
        started_at=tuple(_text(start["step"]) for start in found),
    )


def _config(workdir: AnyPath) -> dict[str, Any]:
    """The fields of DIR/config.json by their dotted names in this version."""
    try:
        found = files.parse_json((workdir / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    found.pop("trained_on", None)
    return ADDED_LATER | renamed.present(dict(flat(found)))


def differences(recorded: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(field, default, value) of the recorded fields that differ from configs/default.py, by name."""
    defaults = dict(flat(as_dict(experiments.default())))
    return [
        (field, _text(defaults[field]) if field in defaults else "not a field", _text(value))
        for field, value in sorted(recorded.items())
        if field not in defaults or defaults[field] != value
    ]


def _surroundings(start: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not start:
        return []
    packages = start.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    listed = ", ".join(f"{_text(name)} {_text(version)}" for name, version in versions.items())
    processes = start.get("processes", 1)
    shared = f", {_text(processes)} processes" if processes != 1 else ""

    def get(name: str) -> str:
        return _text(start.get(name, "not recorded"))

    return [
        ("devices", f"{get('devices')} x {get('device')} ({get('platform')}){shared}"),
        ("host", f"{get('cpu')}, {get('cores')} cores, {get('memory_gib')} GiB, {get('system')}"),
        ("started", get("time")),
        ("cpnet_jax", get("version")),
        ("Python", get("python")),
        *([("packages", listed)] if listed else []),
    ]


def _commit(start: Mapping[str, Any]) -> str:
    commit = start.get("commit")
    if not commit:
        return ""
    return _text(commit) + (" with changes that are not committed" if start.get("changed") else "")


def _text(value: Any) -> str:
    return shortened(value, LONGEST_VALUE) if isinstance(value, str) and value else quoted(value)
