"""Rules that map tensors of a PyTorch model to variables of this package; each rule works in both directions."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter
from typing import TypeVar

import einops
import numpy as np
from jaxtyping import Shaped


@dataclass(frozen=True)
class Rule:
    """Maps a tensor, named `theirs`, to a variable with the path `ours`, collection included.

    {stage} and other fields in braces stand for a number, the same one in both names. `there` and `here` are the orders
    of the axes in einops' notation; an axis of one element is a 1.
    """

    theirs: str
    ours: str
    there: str = "c"
    here: str = "c"

    def to_ours(self, tensor: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Reorders a tensor's axes; raises einops.EinopsError if it has other axes."""
        return einops.rearrange(tensor, f"{self.there} -> {self.here}")

    def to_theirs(self, variable: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        return einops.rearrange(variable, f"{self.here} -> {self.there}")


@dataclass(frozen=True)
class Counter:
    """PyTorch's count of batches, stored beside the running mean `ours` of a norm; this package does not need it."""

    theirs: str
    ours: str


@dataclass(frozen=True)
class Unused:
    """A tensor that such files hold and CPNet does not need; `what` describes it."""

    theirs: str
    what: str


Row = Rule | Counter | Unused
Kind = TypeVar("Kind", Rule, Counter, Unused)


@dataclass(frozen=True)
class Layout:
    """Table of the tensor names in one kind of file.

    Attributes:
      name: project and model.
      rows: rules for every tensor that such a file may hold.
    """

    name: str
    rows: tuple[Row, ...]

    def to_theirs(self, path: str) -> tuple[str, Rule] | None:
        """Name of the tensor that holds the variable, and its rule; None if these files have no such tensor."""
        return next(_renamed(self._of_type(Rule), path, old="ours", new="theirs"), None)

    def to_ours(self, key: str) -> str | None:
        """Path of the variable that the tensor holds; None if it holds none."""
        return next((path for path, _ in _renamed(self._of_type(Rule), key, old="theirs", new="ours")), None)

    def counters(self, path: str) -> Iterator[str]:
        """Names of the counters that the file has beside that variable."""
        return (key for key, _ in _renamed(self._of_type(Counter), path, old="ours", new="theirs"))

    def plain_name(self, average: str) -> str | None:
        """Name of the tensor that mmcv's moving average (ema_backbone_conv1_weight) is of; None if it is of none."""
        for row in self.rows:
            if match := _pattern(f"ema_{row.theirs.replace('.', '_')}").fullmatch(average):
                return row.theirs.format(**match.groupdict())
        return None

    def is_counter(self, key: str) -> bool:
        return any(_pattern(row.theirs).fullmatch(key) for row in self._of_type(Counter))

    def unused(self, key: str) -> str | None:
        """Description of a tensor that CPNet does not need; None for all others."""
        return next((row.what for row in self._of_type(Unused) if _pattern(row.theirs).fullmatch(key)), None)

    def _of_type(self, kind: type[Kind]) -> list[Kind]:
        return [row for row in self.rows if isinstance(row, kind)]


def _renamed(rows: list[Kind], name: str, *, old: str, new: str) -> Iterator[tuple[str, Kind]]:
    for row in rows:
        if match := _pattern(getattr(row, old)).fullmatch(name):
            yield getattr(row, new).format(**match.groupdict()), row


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = Formatter().parse(template)
    return re.compile("".join(re.escape(text) + (rf"(?P<{field}>\d+)" if field else "") for text, field, *_ in parts))
