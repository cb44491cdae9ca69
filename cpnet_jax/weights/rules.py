"""Rules that say which tensor of a PyTorch model is which variable of ours. A rule is data and works both ways."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter

import einops
import numpy as np
from jaxtyping import Shaped


@dataclass(frozen=True)
class Rule:
    """One row: `theirs` is the tensor's name there, `ours` the variable's path here, with its collection in front.

    {stage} and the like stand for a number, the same one on both sides. `there` and `here` are the orders of the axes
    in einops' notation; an axis of one element is a 1.
    """

    theirs: str
    ours: str
    there: str = "c"
    here: str = "c"

    def to_ours(self, tensor: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Raises einops.EinopsError where the tensor has other axes."""
        return einops.rearrange(tensor, f"{self.there} -> {self.here}")

    def to_theirs(self, variable: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        return einops.rearrange(variable, f"{self.here} -> {self.there}")


@dataclass(frozen=True)
class Counter:
    """A number of batches that PyTorch keeps beside a norm's running mean, `ours`; nothing here depends on it."""

    theirs: str
    ours: str


@dataclass(frozen=True)
class Unused:
    """Tensors that the file has and CPNet does not need, and what they are."""

    theirs: str
    what: str


Row = Rule | Counter | Unused


@dataclass(frozen=True)
class Layout:
    """The names of a kind of file.

    Attributes:
      name: whose they are.
      rows: every tensor such a file may have belongs to one of them.
    """

    name: str
    rows: tuple[Row, ...]

    def to_theirs(self, path: str) -> tuple[str, Rule] | None:
        """The tensor that holds the variable, and the rule; None where there is no such tensor in these files."""
        return next(_renamed(self._of_type(Rule), path, source="ours", target="theirs"), None)

    def to_ours(self, key: str) -> str | None:
        """The variable that the tensor holds; None where it holds none of them."""
        return next((path for path, _ in _renamed(self._of_type(Rule), key, source="theirs", target="ours")), None)

    def counters(self, path: str) -> Iterator[str]:
        """The counters that the file has beside that variable."""
        return (key for key, _ in _renamed(self._of_type(Counter), path, source="ours", target="theirs"))

    def is_counter(self, key: str) -> bool:
        return any(_pattern(row.theirs).fullmatch(key) for row in self._of_type(Counter))

    def unused(self, key: str) -> str | None:
        """What the tensor is, where it is known and not needed."""
        return next((row.what for row in self._of_type(Unused) if _pattern(row.theirs).fullmatch(key)), None)

    def _of_type(self, kind: type) -> list[Row]:
        return [row for row in self.rows if isinstance(row, kind)]


def _renamed(rows: list[Row], name: str, *, source: str, target: str) -> Iterator[tuple[str, Row]]:
    for row in rows:
        if match := _pattern(getattr(row, source)).fullmatch(name):
            yield getattr(row, target).format(**match.groupdict()), row


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = Formatter().parse(template)
    return re.compile("".join(re.escape(text) + (rf"(?P<{field}>\d+)" if field else "") for text, field, *_ in parts))
