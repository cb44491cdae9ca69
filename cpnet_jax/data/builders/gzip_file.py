"""Random access to the content of a gzip file, without a decompressed copy of it."""

import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

GZIP = 31  # zlib's number for the gzip format
READ = 2**18  # bytes read from the file at once
PIECE = 2**18  # most bytes that are decompressed at once, since few bytes may stand for many
SPACING = 2**20  # bytes of the content between two points, in the beginning
MOST_POINTS = 1024  # about 50 KB each
CACHED = 2**25  # bytes of the content kept in memory


class _Point(NamedTuple):
    """A place to start from: offset in the content, offset in the file, and the decompressor's state there."""

    content: int
    file: int
    state: Any


class GzipFile:
    """The content of a gzip file, which several threads may read at any offset.

    The first pass decompresses the file once and keeps the decompressor's state at regular points. A later read
    starts at the point before it. The content is cached in stretches from one point to the next, so that reading in
    the order of the file decompresses each stretch once. Memory is bounded, whatever the size of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._points = [_Point(0, 0, zlib.decompressobj(GZIP))]
        self._spacing = SPACING
        self._pass, self._ahead = self._first_pass(), b""
        self._stretch = lru_cache(maxsize=2)(self._decompress)
        self._lock = threading.Lock()

    def read(self, size: int) -> bytes:
        """Reads the next bytes of the first pass, as a stream does.

        Raises:
          EOFError: if the file is cut off.
          zlib.error: if it is damaged.
        """
        parts, missing = [], size
        while missing and (self._ahead or (piece := next(self._pass, b""))):
            piece, self._ahead = (self._ahead or piece), b""
            parts.append(piece[:missing])
            self._ahead = piece[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    def finish_first_pass(self) -> None:
        """Decompresses the rest; raises as `read` does. `read_at` needs it."""
        for _ in self._pass:
            pass
        self._ahead = b""
        self._stretch = lru_cache(maxsize=max(2, CACHED // self._spacing))(self._decompress)

    def read_at(self, size: int, offset: int) -> bytes:
        """Reads bytes of the content; fewer at its end."""
        parts = []
        with self._lock:  # threads that read neighbouring files would decompress the same stretch
            while size:
                index = bisect_right(self._points, offset, key=lambda point: point.content) - 1
                start = offset - self._points[index].content
                part = self._stretch(index)[start : start + size]
                if not part:
                    break
                parts.append(part)
                size, offset = size - len(part), offset + len(part)
        return b"".join(parts)

    def _first_pass(self) -> Iterator[bytes]:
        content = 0
        for piece, file, state in self._pieces(self._points[0]):
            content += len(piece)
            if content - self._points[-1].content >= self._spacing:
                self._points.append(_Point(content, file, state.copy()))
            if len(self._points) > MOST_POINTS:
                self._points, self._spacing = self._points[::2], 2 * self._spacing
            yield piece

    def _decompress(self, index: int) -> bytes:
        """The content from a point to the next one."""
        start, length = self._points[index], None
        if index + 1 < len(self._points):
            length = self._points[index + 1].content - start.content
        parts, done = [], 0
        for piece, _, _ in self._pieces(start):
            parts.append(piece)
            done += len(piece)
            if length is not None and done >= length:
                break
        return b"".join(parts)[:length]

    def _pieces(self, point: _Point) -> Iterator[tuple[bytes, int, Any]]:
        """Pieces of the content from a point on, with the offset in the file and the state after each."""
        state, offset, pending = point.state.copy(), point.file, b""
        while True:
            pending = pending or os.pread(self._file.fileno(), READ, offset)
            if state.eof:  # further members may follow, and zeros
                rest = pending.lstrip(b"\0")
                offset += len(pending) - len(rest)
                if not pending:
                    return
                if not rest:
                    pending = b""
                    continue
                state, pending = zlib.decompressobj(GZIP), rest
            piece = state.decompress(pending, PIECE)
            if not piece and not pending:
                raise EOFError("it is cut off")
            rest = state.unused_data if state.eof else state.unconsumed_tail
            offset, pending = offset + len(pending) - len(rest), rest
            if piece:
                yield piece, offset, state
