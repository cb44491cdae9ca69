"""Reads class files of other tools that have a header or a form of their own: Kaggle's, Roboflow's, VOC's and CVAT's.

CamVid's label_colors.txt and labelme's labels.txt are lines that `class_file` reads itself.
"""

import csv
import re
from collections.abc import Sequence
from typing import NamedTuple

from cpnet_jax.errors import UserError, quoted

LABELMAP_HEADER = "# label:color_rgb:parts:actions"
# Header of a column in a CSV file -> what the column holds; others are left out.
COLUMNS = {
    **dict.fromkeys(("name", "class", "label"), "name"),
    **dict.fromkeys(("pixel value", "value", "id"), "value"),
    **{name: colour for colour in ("red", "green", "blue") for name in (colour, colour[0])},
}
_Lines = Sequence[tuple[int, str]]  # number and text of each line that is not empty


class Row(NamedTuple):
    """A class as its line describes it; what the line leaves out is empty."""

    line: int
    name: str
    value: str = ""
    colour: str = ""
    in_quotes: bool = False  # whether a line in the form of `class_file` quotes the name


def read_rows(text: str, where: str) -> list[Row] | None:
    """Returns the classes of a file in one of these formats, or None if it is in none of them.

    Raises:
      UserError: if the header has two columns for the same, or a line has another form than the first one; names the
        file and the line.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        return None
    classes = [(number, line) for number, line in lines if not line.startswith("#")]
    if lines[0][1] == LABELMAP_HEADER or (classes and _labelmap_cells(classes[0][1])):
        return _read_labelmap(classes, where)
    for delimiter in ",;\t":
        columns = [COLUMNS.get(cell.lower(), "") for cell in _cells(lines[0][1], delimiter)]
        if "name" in columns and ("value" in columns or {"red", "green", "blue"} <= set(columns)):
            _check_columns(columns, f"{where}, line {lines[0][0]}: the header {quoted(lines[0][1])}")
            return _read_csv(lines[1:], columns, delimiter, where)
        if "name" in columns and {"red", "green", "blue"} & set(columns):
            raise UserError(
                f"{where}, line {lines[0][0]}: the header {quoted(lines[0][1])} lacks a colour: write name,r,g,b"
            )
    return None


def _check_columns(columns: Sequence[str], where: str) -> None:
    """Raises UserError that begins with `where` if two columns hold the same."""
    twice = [part for part in columns if part and columns.count(part) > 1]
    if twice:
        headers = ", ".join(header for header, part in COLUMNS.items() if part == twice[0])
        raise UserError(f"{where} has several columns for {twice[0]} ({headers}): remove or rename all but one")


def _read_csv(lines: _Lines, columns: list[str], delimiter: str, where: str) -> list[Row]:
    """Reads Kaggle's class_dict.csv ("name,r,g,b") and Roboflow's _classes.csv ("Pixel Value, Class")."""
    rows = []
    for number, line in lines:
        cells = _cells(line, delimiter)
        if len(cells) < len(columns) or any(cells[len(columns) :]):
            raise UserError(
                f"{where}, line {number}: {quoted(line)} has {len(cells)} cell(s), but the header has {len(columns)}: "
                "correct the line"
            )
        found = dict(zip(columns, cells, strict=False))
        colour = " ".join(found.get(part, "") for part in ("red", "green", "blue")).strip()
        rows.append(Row(number, found["name"], found.get("value", ""), colour))
    return rows


def _read_labelmap(lines: _Lines, where: str) -> list[Row]:
    """Reads labelmap.txt, which CVAT writes with masks in the layout of PASCAL VOC ("road:128,64,128::")."""
    rows = []
    for number, line in lines:
        cells = _labelmap_cells(line)
        if not cells:
            raise UserError(f"{where}, line {number}: {quoted(line)} is not a class: write NAME:R,G,B::")
        rows.append(Row(number, cells[0].strip(), colour=cells[1]))
    return rows


def _labelmap_cells(line: str) -> list[str]:
    """Returns name, colour, parts and actions; an empty list if the line has another form."""
    cells = line.rsplit(":", 3)
    return cells if len(cells) == 4 and re.fullmatch(r"\d{1,3},\d{1,3},\d{1,3}", cells[1].replace(" ", "")) else []


def _cells(line: str, delimiter: str) -> list[str]:
    """Splits a line of a CSV file; a line that the csv module refuses has no cell."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:  # of a cell of more than 128 KiB
        return []
