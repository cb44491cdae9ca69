"""Reads matrices from .mat files of MATLAB's version 5, which MATLAB 5 to 7.2 write by default.

scipy's reader is not used, because it crashes the process on some damaged files.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

# Type of a data element -> numpy's type.
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
ARRAY, COMPRESSED = 14, 15
# Class of an array.
STRUCT, NUMERIC = 2, range(6, 16)
HEADER = 128  # bytes
LARGEST = 2**28  # bytes of an array after decompression


class _Array(NamedTuple):
    """An array whose content is not decoded yet."""

    kind: int
    shape: tuple[int, ...]
    name: str
    content: list[tuple[int, bytes]]


def read_array(data: bytes, *path: str) -> Shaped[np.ndarray, "..."]:
    """Reads an array of numbers.

    Args:
      data: bytes of the file.
      path: the variable's name, then the fields of structs that lead to the array.

    Raises:
      ValueError: if the file is damaged, of another version, or has no such array.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("it is damaged, or not of MATLAB's version 5 to 7.2")
    try:
        for array in _variables(data[HEADER:], order):
            if array.name == path[0]:
                for field in path[1:]:
                    array = _field(array, field, order)
                return _numbers(array, order)
    except (struct.error, zlib.error) as error:
        raise ValueError("it is damaged") from error
    raise ValueError(f"it has no variable {path[0]}")


def _variables(data: bytes, order: str) -> Iterator[_Array]:
    for kind, content in _elements(data, order):
        if kind == COMPRESSED:
            content = zlib.decompressobj().decompress(content, LARGEST)
            kind, content = next(_elements(content, order), (0, b""))
        if kind == ARRAY:
            yield _array(content, order)


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yields the type and the content of each data element."""
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        place = start + size if kind == COMPRESSED else start + size + -size % 8
        if kind >> 16:  # an element of at most 4 bytes, within the 8 bytes of its head
            kind, size, start, place = kind & 0xFFFF, kind >> 16, start - 4, start
        if size > len(data) - start:
            raise ValueError("it is damaged: an element ends too early")
        yield kind, data[start : start + size]


def _array(content: bytes, order: str) -> _Array:
    parts = list(_elements(content, order))
    if len(parts) < 3:
        raise ValueError("it is damaged: an array has no content")
    (_, flags), (_, shape), (_, name), *rest = parts
    kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    return _Array(kind, struct.unpack(f"{order}{len(shape) // 4}i", shape), name.decode("latin1"), rest)


def _field(array: _Array, name: str, order: str) -> _Array:
    """Returns a field of a single struct."""
    if array.kind != STRUCT or len(array.content) < 2:
        raise ValueError(f"{array.name or 'a field'} is not a struct")
    (_, width), (_, names), *values = array.content
    length = struct.unpack_from(f"{order}i", width)[0]
    fields = [names[start : start + length].rstrip(b"\0") for start in range(0, len(names), max(length, 1))]
    for field, (kind, content) in zip(fields, values, strict=False):
        if field == name.encode() and kind == ARRAY:
            return _array(content, order)
    raise ValueError(f"it has no field {name}")


def _numbers(array: _Array, order: str) -> Shaped[np.ndarray, "..."]:
    if array.kind not in NUMERIC or not array.content or array.content[0][0] not in NUMBERS:
        raise ValueError("it holds no numbers there")
    kind, content = array.content[0]
    dtype = np.dtype(order + NUMBERS[kind])
    if min(array.shape, default=-1) < 0 or math.prod(array.shape) * dtype.itemsize != len(content):
        raise ValueError("it is damaged: an array has another size than its content")
    return np.frombuffer(content, dtype).reshape(array.shape, order="F")
