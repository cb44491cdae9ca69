"""Encodes pictures as data URIs of bounded size, to embed them in the page."""

import base64
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

JPEG_QUALITY = 85
# Pictures are not shrunk below this side, whatever the limit.
SMALLEST = 64


@dataclass(frozen=True)
class Embedded:
    """A picture for an <img> element: its data URI and its size in pixels."""

    uri: str
    width: int
    height: int


def shrink(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) scaled so that no side exceeds `longest`; the aspect ratio is kept up to rounding."""
    factor = min(longest / max(size), 1)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def jpeg(picture: Image.Image, longest: int, limit: int) -> Embedded:
    """Encodes as JPEG with no side above `longest`; shrinks further until the URI has at most `limit` characters."""
    while True:
        size = shrink(picture.size, longest)
        small = picture if size == picture.size else picture.resize(size, Image.Resampling.BOX)
        stream = BytesIO()
        # Without optimize=True, because Pillow then fails on noise.
        small.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        uri = _uri("image/jpeg", stream.getvalue())
        if len(uri) <= limit or longest <= SMALLEST:
            return Embedded(uri, *size)
        longest = longest * 4 // 5


def png(picture: Image.Image) -> Embedded:
    """Encodes as PNG: lossless, for pictures that compress well."""
    stream = BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return Embedded(_uri("image/png", stream.getvalue()), *picture.size)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
