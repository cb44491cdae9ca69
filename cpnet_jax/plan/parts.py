"""Assigns a step's cycles to the parts of the network."""

import re
from collections import Counter

# Patterns in the names of operations, which contain the names of modules and scopes. The first match counts.
PATTERNS = {
    "stem": r"/backbone\._stem/",
    "res2": r"/layer1_",
    "res3": r"/layer2_",
    "res4": r"/layer3_",
    "res5": r"/layer4_",
    "aggregation": r"/context\._aggregated/",
    "context module": r"/context_module/",
    "context prior": r"/context\b",
    "head": r"/head/",
    "auxiliary head": r"/aux_head/",
    "losses": r"\(losses\)",
    "optimiser": r"/optimiser/",
}
REST = "the rest"


def by_part(cycles: Counter[str]) -> dict[str, int]:
    """Sums cycles by origin (see `hlo.Program`) to cycles by part; all parts and `REST` are present."""
    parts = dict.fromkeys([*PATTERNS, REST], 0)
    for origin, count in cycles.items():
        parts[part_of(origin)] += count
    return parts


def part_of(origin: str) -> str:
    """Part of the network that an operation belongs to; `REST` if its name matches none."""
    return next((part for part, pattern in PATTERNS.items() if re.search(pattern, origin)), REST)
