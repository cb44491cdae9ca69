"""Patterns of the config: regular expressions on the paths of parameters and modules.

A path is "backbone/layer1_0/conv1/conv/kernel". A pattern has to match all of it, so that "head/.*" is the head and not
the auxiliary head, "aux_head/...", as well.
"""

import re
from collections.abc import Collection, Sequence

from cpnet_jax.errors import UserError


def check(patterns: Sequence[str], field: str) -> None:
    """Raises UserError on one that is no regular expression.

    Args:
      field: of the config that holds them, "config.init.skip".
    """
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise UserError(f"{field} has {pattern!r}, which is no regular expression ({error}): mend it") from error


def matching(patterns: Sequence[str], paths: Collection[str], field: str) -> set[str]:
    """The paths that at least one of the patterns matches.

    Raises:
      UserError: on a pattern that matches none of them: whoever wrote it meant something.
    """
    found = {pattern: {path for path in paths if re.fullmatch(pattern, path)} for pattern in patterns}
    for pattern, matched in found.items():
        if not matched:
            known = sorted(paths)
            raise UserError(
                f"{field} has {pattern!r}, which matches none of the {len(known)} paths there are ({known[0]} ... "
                f"{known[-1]}): mend it, or leave it out"
            )
    return set().union(*found.values())
