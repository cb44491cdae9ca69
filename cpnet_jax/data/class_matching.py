"""Matches the classes of two datasets by name, so that a network can be scored on labels made for another one."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError

FIELD = "config.eval.class_names"
# Names that a message lists.
MOST_NAMES = 8


@dataclass(frozen=True)
class ClassMatching:
    """How labels of some data become the classes of a network.

    Attributes:
      table: [v] is the network's class of the data's label v; ignored labels stay ignored.
      unknown: classes of the data that the network does not know; their pixels are ignored.
      missing: classes of the network that the data do not have.
    """

    table: UInt8[np.ndarray, " 256"]
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def apply(self, label: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Translates a label image of the data."""
        return cv2.LUT(label, self.table)

    def notes(self) -> list[str]:
        """A line for the classes that have no partner, if there are any, on each side."""
        lines = []
        if self.unknown:
            lines.append(
                f"Note: the data have {_counted(self.unknown)} that the network does not know, and such pixels are "
                f"ignored; if it has other names for them, set {FIELD}"
            )
        if self.missing:
            lines.append(
                f"Note: the network has {_counted(self.missing)} that the data do not have: left out of the means, and "
                "wrong where predicted"
            )
        return lines


def match_classes(data: Dataset, network: Dataset, names: Sequence[Sequence[str]] = ()) -> ClassMatching:
    """Matches the classes of some data with those of a network.

    Names match if they differ at most in case, and in spaces, hyphens and underscores between words.

    Args:
      data: the classes of the labels.
      network: the classes of the predictions.
      names: pairs of a class of the data and the network's class that it is, for classes whose names differ.

    Raises:
      UserError: if `names` has a name that is not a class, or no class matches.
    """
    renamed = _renamed(data, network, names)
    alike = _by_key(name for name in network.classes if name not in data.classes)
    matched = {name: renamed.get(name) or _find(name, network.classes, alike) for name in data.classes}
    if not any(matched.values()):
        raise UserError(
            f"the data's classes ({_listed(data.classes)}) and the network's ({_listed(network.classes)}) have no name "
            f'in common: set {FIELD} to pairs of both, for example "{((data.classes[0], network.classes[0]),)}"'
        )
    table = np.full(256, network.ignore_label, np.uint8)
    for label, name in enumerate(data.classes):
        if matched[name]:
            table[label] = network.classes.index(matched[name])
    return ClassMatching(
        table,
        unknown=tuple(name for name in data.classes if not matched[name]),
        missing=tuple(name for name in network.classes if name not in matched.values()),
    )


def _renamed(data: Dataset, network: Dataset, names: Sequence[Sequence[str]]) -> dict[str, str]:
    found = {}
    for theirs, ours in names:
        for name, whose, classes in ((theirs, "data", data.classes), (ours, "network", network.classes)):
            if name not in classes:
                raise UserError(
                    f"{FIELD} has the pair {(theirs, ours)}, but {name!r} is not a class of the {whose}: use one of "
                    f"{_listed(classes)}"
                )
        found[theirs] = ours
    return found


def _find(name: str, classes: Sequence[str], alike: dict[str, list[str]]) -> str | None:
    """The class of that name, or else the only one whose name is alike."""
    if name in classes:
        return name
    found = alike.get(_key(name), [])
    return found[0] if len(found) == 1 else None


def _by_key(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_key(name), []).append(name)
    return found


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({_listed(names)})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
