"""PNG files that Pillow does not write."""

import struct
import zlib
from collections.abc import Iterable

import numpy as np

START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """A chunk, with the right checksum unless another one is given."""
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def with_chunk(png: bytes, kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """Inserts a chunk after a PNG's header."""
    return png[:33] + chunk(kind, content, checksum) + png[33:]


def chunks(png: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Yields the kind and the content of each chunk, as far as they are whole."""
    place = len(START)
    while place + 12 <= len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        yield png[place + 4 : place + 8], png[place + 8 : end - 4]
        place = end


def with_right_checksums(png: bytes) -> bytes:
    """Corrects the checksums, so that a reader sees what is wrong in the contents."""
    return START + b"".join(chunk(kind, content) for kind, content in chunks(png))


def grey_png(indices: np.ndarray, bits: int) -> bytes:
    """A grey PNG whose values have 1, 2, 4 or 8 bits."""
    height, width = indices.shape
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in indices]
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return START + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
