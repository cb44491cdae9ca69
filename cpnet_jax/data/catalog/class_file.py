"""Parses a user's class file: the classes, and the raw mask values or colours of each.

A text file has one class a line. Without values, classes have the mask values 0, 1, 2 ... in order:

    road                 0: road             road 128 64 128
    sky                  7: sky              sky #4682b4
    ignore               255: ignore         ignore 0 0 0

A name that starts with a digit is written in quotes, and so are names that end in numbers, unless the numbers cannot be
values. "Ignore" and "ignored" are read as "ignore", and so are "void" and "unlabeled" for the values that only mark
pixels without a class (255, -1). "__ignore__" in the first line, as labelme writes it, has no place: the next name has
the mask value 0.

A YAML file (.yaml, .yml) can also map several raw values or colours to one class:

    classes: [{name: road, value: 7, colour: [128, 64, 128]}, ...]   # or a plain list of names
    ignore: [0, "#000000"]                                           # ignored raw values or colours
    map: {8: road, "#6b8e23": ignore, "*": sky}                      # further raw values or colours -> class

In a map, "*" or "others" stands for all values and colours that the file does not name.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cpnet_jax.data.catalog.class_formats import Row, read_rows
from cpnet_jax.data.catalog.dataset import Colour
from cpnet_jax.data.catalog.voc import voc_palette
from cpnet_jax.data.catalog.yaml_file import load_yaml
from cpnet_jax.errors import UserError, quoted

IGNORE = "ignore"  # name that stands for IGNORE_LABEL
IGNORE_LABEL = 255
# Spellings of IGNORE, without regard to case, "_" and spaces.
IGNORE_NAMES = {"ignore", "ignored"}
# What means the same for one of these values. With others, people do train on such a class.
UNLABELLED_VALUES = (255, -1, 65535)
UNLABELLED_NAMES = {"void", "unlabeled", "unlabelled", "unknown", "dontcare"}
LABELME_FIRST = "__ignore__"
REST = ("*", "others")  # key of a map for all values and colours that the file does not name
MAX_CLASSES = 255  # training ids are bytes, and one of them is IGNORE_LABEL
MAX_NAME = 200  # characters
MAX_DIGITS = 12  # more than any value of 32 bits has

_HEX = r"#[0-9a-fA-F]{6}"
# Separators begin where another character ends and are never given back, so that matching takes linear time.
_GAP = r"(?<![\s,])[\s,]++"
_RGB = rf"\d{{1,3}}{_GAP}\d{{1,3}}{_GAP}\d{{1,3}}"
_NAME = r"""(?P<name>"[^"]+"|'[^']+'|(?!-?\d)[^\s#].*?)"""
_CONTROL = re.compile(r"[\x00-\x08\n-\x1f\x7f-\x9f\u2028\u2029]")
_COLOUR_FIRST = re.compile(rf"(?P<colour>{_HEX}|{_RGB}){_GAP}{_NAME}")
_NAME_VALUE = re.compile(r"(?P<name>.*?)(?<![\s:=,])[\s:=,]++(?P<value>-?\d+)")
_LINE = re.compile(rf"((?P<value>-?\d+)(\s*+[:=,]\s*+|\s++))?{_NAME}({_GAP}(?P<colour>{_HEX}|{_RGB}))?")


@dataclass(frozen=True)
class ClassTable:
    """Content of a class file.

    Attributes:
      names: names of the classes, in order.
      palette: their colours; those of PASCAL VOC if the file gives none.
      values: raw mask value -> class index, or IGNORE_LABEL.
      colours: mask colour -> class index, or IGNORE_LABEL; empty if the file gives none.
      where: name of the file for messages.
      rest: class index, or IGNORE_LABEL, of all other values and colours; None: they are errors.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    values: dict[int, int]
    colours: dict[Colour, int]
    where: str
    rest: int | None = None

    def unlabelled(self) -> list[str]:
        """Returns the classes whose names say that they mark pixels without a class."""
        return [name for name in self.names if _key(name) in UNLABELLED_NAMES]


@dataclass(frozen=True)
class _Entry:
    """A class of the file, or IGNORE."""

    name: str
    value: int | None = None
    colour: Colour | None = None


@dataclass(frozen=True)
class _Content:
    entries: list[_Entry]
    # Raw value or colour, or one of REST -> class name or IGNORE.
    mapping: list[tuple[int | Colour | str, str]] = field(default_factory=list)
    mapped: bool = False  # whether the file has a map; if so, a class's place is not its raw value
    first_place: int = 0  # raw value of the first entry, if the entries have none


def parse(text: str, where: str) -> ClassTable:
    """Parses the text of a class file, as YAML if its name `where` ends in .yaml or .yml.

    Raises:
      UserError: if the text is faulty; names the file and the line or class.
    """
    text = unicodedata.normalize("NFC", text)
    content = _parse_yaml(text, where) if where.lower().endswith((".yaml", ".yml")) else _parse_text(text, where)
    entries = content.entries
    names = tuple(entry.name for entry in entries if entry.name != IGNORE)
    _check_names(names, where)
    _check_all_or_none("value", [(e.name, e.value) for e in entries], where)
    _check_all_or_none("colour", [(e.name, e.colour) for e in entries if e.name != IGNORE], where)
    label_of = {name: index for index, name in enumerate(names)} | {IGNORE: IGNORE_LABEL}

    by_place = entries[0].value is None and not content.mapped
    pairs = [
        (place if by_place else entry.value, entry.name) for place, entry in enumerate(entries, content.first_place)
    ]
    pairs += [(entry.colour, entry.name) for entry in entries]
    values, colours, rest = {}, {}, {}
    for raw, name in [*pairs, *content.mapping]:
        if name not in label_of:
            raise UserError(
                f"{where} maps {_show(raw)} to {quoted(name)}, which is not one of its classes: correct the name"
            )
        table = colours if isinstance(raw, tuple) else rest if isinstance(raw, str) else values
        if raw is not None and table.setdefault(raw, label_of[name]) != label_of[name]:
            raise UserError(f"{where} gives {_show(raw)} to two classes, one of them {name!r}: remove one")
    # 255 usually means "ignored", but "foreground" in most masks of two classes; there the file must define it.
    if len(names) > 2 or values.get(-1) == IGNORE_LABEL:
        values.setdefault(IGNORE_LABEL, IGNORE_LABEL)
    given = [entry.colour for entry in entries if entry.colour and entry.name != IGNORE]
    # The black of VOC's palette is for ignored pixels.
    palette = tuple(given) if len(given) == len(names) else voc_palette(len(names) + 1)[1:]
    return ClassTable(names, palette, values, colours, where, next(iter(rest.values()), None))


def _parse_text(text: str, where: str) -> _Content:
    rows = read_rows(text, where)
    if rows is None:
        rows = list(_rows(text, where))
        _check_values_lead(rows, where)
    entries, first_place = [], 0
    for row in rows:
        if row.name == LABELME_FIRST and not entries:
            first_place = -1
        entries.append(_text_entry(row, f"{where}, line {row.line}"))
    return _Content(entries, first_place=first_place)


def _rows(text: str, where: str) -> Iterator[Row]:
    """Yields the classes of a text file in the form that the module's docstring shows."""
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or (line.startswith("#") and not _COLOUR_FIRST.fullmatch(line)):
            continue
        match = _COLOUR_FIRST.fullmatch(line) or _LINE.fullmatch(line)
        if not match:
            raise UserError(
                f"{where}, line {number}: {quoted(line)} is not a class: write NAME, VALUE: NAME or NAME R G B, with "
                "NAME in quotes if it starts with a digit"
            )
        found = match.groupdict()
        name = found["name"]
        quoted_name = bool(re.fullmatch(r"""("[^"]+"|'[^']+')""", name))
        name = name[1:-1].strip() if quoted_name else name
        yield Row(number, name, found.get("value") or "", found["colour"] or "", quoted_name)


def _check_values_lead(rows: Sequence[Row], where: str) -> None:
    """Raises UserError if the lines are NAME VALUE, perhaps below a header: values would be read as parts of names.

    Names such as "level 1" and "level 2" cannot be that, because two classes would have one name.
    """
    unquoted = {place: row for place, row in enumerate(rows) if not (row.value or row.in_quotes)}
    found = {place: match for place, row in unquoted.items() if (match := _NAME_VALUE.fullmatch(row.name))}
    if len(found) < 2 or not found.keys() >= set(range(1, len(rows))):
        return
    all_differ = all(len({match[part] for match in found.values()}) == len(found) for part in ("name", "value"))
    if all_differ and any(match["value"] != str(place) for place, match in found.items()):
        first = rows[min(found)]
        raise UserError(
            f"{where}, line {first.line}: the value of {quoted(first.name)} stands behind its name: write "
            "VALUE: NAME in every line, or put the names into quotes if the numbers belong to them"
        )


def _text_entry(row: Row, where: str) -> _Entry:
    if not row.name:
        raise UserError(f"{where} gives a class without a name: write its name")
    digits = row.value
    value = int(digits) if re.fullmatch(rf"-?\d{{1,{MAX_DIGITS}}}", digits) else None
    if digits and not _is_value(value):
        raise UserError(f"{where}: the value is {quoted(digits)}: it must be an integer of at most 32 bits")
    return _Entry(_class_name(row.name, value), value, _colour(row.colour, where) if row.colour else None)


def _parse_yaml(text: str, where: str) -> _Content:
    content = load_yaml(text, where)
    content = {"classes": content} if isinstance(content, list) else content
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise UserError(f"{where} has no list of classes: write 'classes:' and a line '- NAME' for each")
    _check_keys(content, {"classes", "ignore", "map"}, where)
    entries = [_yaml_entry(entry, f"{where}, class {place}") for place, entry in enumerate(content["classes"])]
    ignored = content.get("ignore", [])
    ignored = ignored if isinstance(ignored, list) else [ignored]
    mapped = content.get("map") or {}
    if not isinstance(mapped, dict):
        raise UserError(f"{where}: 'map' must map raw values or colours to classes, as in 'map: {{8: road}}'")
    mapping = [(_raw(raw, where), IGNORE) for raw in ignored]
    mapping += [
        (REST[0] if raw in REST else _raw(raw, where), _target(new, entries, where)) for raw, new in mapped.items()
    ]
    first_place = -1 if content["classes"][:1] == [LABELME_FIRST] else 0
    return _Content(entries, mapping, bool(mapped), first_place)


def _yaml_entry(entry: Any, where: str) -> _Entry:
    entry = entry if isinstance(entry, dict) else {"name": entry}
    _check_keys(entry, {"name", "value", "colour", "color"}, where)
    name, value, colour = entry.get("name"), entry.get("value"), entry.get("colour", entry.get("color"))
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: its name is {quoted(name)}, which YAML does not read as text: put it into quotes")
    if value is not None and not _is_value(value):
        raise UserError(f"{where}: its value is {quoted(value)}: it must be an integer of at most 32 bits")
    return _Entry(_class_name(name.strip(), value), value, None if colour is None else _colour(colour, where))


def _raw(raw: Any, where: str) -> int | Colour:
    return raw if _is_value(raw) else _colour(raw, where)


def _target(new: Any, entries: list[_Entry], where: str) -> str:
    """Returns the class name for the right side of a map: a name, a class index, or 255."""
    names = dict(enumerate(entry.name for entry in entries if entry.name != IGNORE)) | {IGNORE_LABEL: IGNORE}
    if _is_value(new) and new not in names:
        raise UserError(f"{where} maps to class {new}, but its classes are 0 to {len(names) - 2}: correct the map")
    return names[new] if _is_value(new) else _class_name(str(new), None)


def _is_value(value: Any) -> bool:
    """Returns whether a value is an integer that a mask of at most 32 bits can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**32


def _colour(colour: Any, where: str) -> Colour:
    """Parses "#rrggbb", "R G B", "R,G,B" or [R, G, B]."""
    if isinstance(colour, str) and re.fullmatch(_HEX, colour):
        red, green, blue = bytes.fromhex(colour[1:])
        return red, green, blue
    numbers = re.split(r"[\s,]+", colour.strip()) if isinstance(colour, str) else colour
    if isinstance(numbers, list) and len(numbers) == 3 and all(re.fullmatch(r"\d{1,3}", str(n)) for n in numbers):
        red, green, blue = map(int, numbers)
        if max(red, green, blue) <= 255:
            return red, green, blue
    raise UserError(
        f"{where}: {quoted(colour)} is neither a value nor a colour: write R G B, each 0 to 255, or '#rrggbb'"
    )


def _check_names(names: Sequence[str], where: str) -> None:
    if len(names) < 2:
        have = f"only the class {names[0]!r}" if names else "no class"
        raise UserError(f"{where} has {have}: name at least two, including the background, one a line")
    if len(names) > MAX_CLASSES:
        raise UserError(f"{where} has {len(names)} classes: there can be at most {MAX_CLASSES}")
    first: dict[str, str] = {}
    for name in names:
        if len(name) > MAX_NAME:
            raise UserError(f"{where} has the class {quoted(name)} of {len(name)} characters: write at most {MAX_NAME}")
        if control := _CONTROL.search(name):
            raise UserError(
                f"{where} has the class {name!r}, which contains the control character {control[0]!r}: remove it"
            )
        earlier = first.setdefault(name.casefold(), name)
        if earlier is not name:
            twice = f"class {name!r} more than once"
            similar = f"classes {earlier!r} and {name!r}, which differ only in case"
            raise UserError(f"{where} has the {twice if earlier == name else similar}: give each class its own name")


def _check_all_or_none(what: str, given: Sequence[tuple[str, Any]], where: str) -> None:
    without = [name for name, thing in given if thing is None]
    if without and len(without) < len(given):
        raise UserError(f"{where} gives some classes a {what}, but {without[0]!r} none: give one to all or to none")


def _class_name(name: str, value: int | None) -> str:
    """Returns IGNORE for a name that means it for this value, else the name."""
    key = _key(name)
    means_ignore = key in IGNORE_NAMES or (key in UNLABELLED_NAMES and value in UNLABELLED_VALUES)
    return IGNORE if means_ignore else name


def _key(name: str) -> str:
    """A name without regard to case, "_" and spaces."""
    return re.sub(r"[\W_]", "", name.casefold())


def _check_keys(found: dict[Any, Any], known: set[str], where: str) -> None:
    unknown = [key for key in found if key not in known]
    if unknown:
        raise UserError(f"{where} has an unknown entry {quoted(unknown[0])}: use only {', '.join(sorted(known))}")


def _show(raw: int | Colour | str | None) -> str:
    if isinstance(raw, str):
        return f"{raw!r}, all other values and colours,"
    return f"the colour {raw}" if isinstance(raw, tuple) else f"the value {raw}"
