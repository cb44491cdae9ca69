"""Loads a user's YAML file; content that is ambiguous or huge is refused."""

import re
from collections.abc import Hashable
from itertools import chain
from typing import Any

import yaml

from cpnet_jax.errors import UserError, quoted

MAX_ALIASED = 10_000  # nodes
UNQUOTED = re.compile(r"[\s\[{](#[0-9a-fA-F]{6}|\*\s*:)")  # YAML takes it for a comment or a reference


def load_yaml(text: str, where: str) -> Any:
    """Loads the text of a YAML file.

    Raises:
      UserError: if it is not valid, gives a key twice, or is too deep or too large; names `where`.
    """
    try:
        return yaml.load(text, _Loader)
    except _ListAsKeyError as error:
        raise UserError(
            f"{where}, line {error}: a list or mapping cannot stand before ':': write a colour as \"255 0 0\" or "
            '"#ff0000"'
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        quotes = ', and put "*" and colours such as "#ff0000" into quotes' if UNQUOTED.search(text) else ""
        raise UserError(f"{where} is not valid YAML ({_reason(error)}): correct it{quotes}") from error


class _ListAsKeyError(yaml.YAMLError):
    """A key that is not a scalar; its text is the number of its line."""


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses keys given twice and aliases that stand for many entries.

    PyYAML silently keeps the last of equal keys. A few lines of aliases can stand for billions of entries.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._left = MAX_ALIASED

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _ListAsKeyError(key.start_mark.line + 1)
        scalars = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")]
        seen = set()
        for key in map(self.construct_object, scalars):
            if key in seen:
                raise yaml.YAMLError(f"{quoted(key)} is given twice{node.start_mark}")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias:
            self._left -= _size(node, self._left)
            if self._left <= 0:
                raise yaml.YAMLError(f"its aliases stand for more than {MAX_ALIASED} entries")
        return node


def _size(node: yaml.Node | None, most: int) -> int:
    """Counts the nodes below one, through aliases, but at most `most`."""
    count, waiting = 0, list[Any]([node])
    while waiting and count < most:
        count += 1
        content = waiting.pop().value
        waiting += (
            chain.from_iterable(each if isinstance(each, tuple) else (each,) for each in content)
            if isinstance(content, list)
            else ()
        )
    return count


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it has too many levels of brackets"
    if isinstance(error, ValueError):
        return "it has a date that does not exist, or a number of thousands of digits"
    return " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")
