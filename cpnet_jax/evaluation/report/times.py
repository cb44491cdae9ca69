"""Where the time of a run went, from its metrics.jsonl."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# In the order of the page: name of a sum -> what it is.
PARTS = {
    "steps": "training steps",
    "input": "waiting for input",
    "first": "first steps, which compile",
    "evaluation": "evaluations",
    "publishing": "reports and pictures",
    "checkpoint": "checkpoints",
}


@dataclass(frozen=True)
class Part:
    """Seconds that a part of the run took, and its share of all parts."""

    name: str
    seconds: float
    share: float


def parts(entries: Iterable[Mapping[str, Any]]) -> list[Part]:
    """The parts that took time, by ascending step of the entries; see `training.metrics.entries`.

    An entry of training steps holds means over the steps since the entry before. Start-up, and steps that were lost
    because the run was killed, are in no entry.
    """
    sums = dict.fromkeys(PARTS, 0.0)
    before = 0
    for entry in entries:
        if "loss" in entry or "lr" in entry:
            count, before = entry["step"] - before, entry["step"]
            if "first_step_seconds" in entry:
                count -= 1
            sums["first"] += _seconds(entry, "first_step")
            sums["steps"] += count * _seconds(entry, "step")
            sums["input"] += count * _seconds(entry, "input")
        for name in ("evaluation", "publishing", "checkpoint"):
            sums[name] += _seconds(entry, name)
    total = sum(sums.values())
    return [Part(PARTS[name], seconds, seconds / total) for name, seconds in sums.items() if seconds]


def _seconds(entry: Mapping[str, Any], name: str) -> float:
    """The value of a field such as step_seconds; 0 if it is missing, or not one that this program writes."""
    value = entry.get(f"{name}_seconds", 0.0)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0


def line(found: Iterable[Part]) -> str:
    """One line for a terminal: the parts in the order of their size."""
    ordered = sorted(found, key=lambda part: -part.seconds)
    return ", ".join(f"{part.name} {duration(part.seconds)} ({part.share:.0%})" for part in ordered)


def duration(seconds: float) -> str:
    """Seconds as people say them: 8.3 s, 4 min 05 s, 3 h 20 min, 2 d 04 h."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"
