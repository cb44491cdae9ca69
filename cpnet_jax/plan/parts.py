"""The parts of the network that a step's cycles are spent on."""

import re
from collections import Counter

# By what the names of their operations hold, which are made of the modules' names and the step's scopes; the first that
# fits counts.
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
    """Cycles by origin (see `hlo.Program`) -> by part of the network, all of them and `REST`."""
    parts = dict.fromkeys([*PATTERNS, REST], 0)
    for origin, count in cycles.items():
        parts[part_of(origin)] += count
    return parts


def part_of(origin: str) -> str:
    """Of an operation; `REST` where its name tells nothing."""
    return next((part for part, pattern in PATTERNS.items() if re.search(pattern, origin)), REST)
