"""Patterns in a config: regular expressions on the paths of parameters and modules.

An example of a path is "backbone/layer1_0/conv1/conv/kernel". A pattern must match the whole path, so "head/.*" matches
the head and not "aux_head/...".
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

from cpnet_jax.errors import UserError


def check(patterns: Sequence[Any], field: str) -> None:
    """Raises UserError if a pattern is not a regular expression.

    Args:
      patterns: the values of the field.
      field: the name of the config field, for example "config.init.skip".
    """
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise UserError(
                f"{field} has {pattern!r}, which is not a regular expression ({error}): correct it"
            ) from error


def matching(patterns: Sequence[str], paths: Collection[str], field: str) -> set[str]:
    """The paths that at least one of the patterns matches.

    Raises:
      UserError: if a pattern matches nothing (most likely a typo).
    """
    found = {pattern: {path for path in paths if re.fullmatch(pattern, path)} for pattern in patterns}
    for pattern, matched in found.items():
        if not matched:
            known = sorted(paths)
            raise UserError(
                f"{field} has {pattern!r}, which matches none of the {len(known)} paths ({known[0]} ... "
                f"{known[-1]}): correct it, or leave it out"
            )
    return set().union(*found.values())
