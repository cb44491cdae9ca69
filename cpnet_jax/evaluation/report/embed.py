"""Pictures inside the page, as data URIs of bounded size."""

import base64
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

QUALITY = 85  # of JPEG
# Below that side nothing shrinks further, whatever the limit.
SMALLEST = 64


@dataclass(frozen=True)
class Embedded:
    """A picture for an <img>: its URI and its size in pixels."""

    uri: str
    width: int
    height: int


def shrink(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) with the same proportions, as near as whole pixels allow, and no side above `longest`."""
    factor = min(longest / max(size), 1)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def jpeg(picture: Image.Image, longest: int, limit: int) -> Embedded:
    """As JPEG, with no side above `longest`, shrunk further until its URI has no more than `limit` characters."""
    while True:
        size = shrink(picture.size, longest)
        small = picture if size == picture.size else picture.resize(size, Image.Resampling.BOX)
        stream = BytesIO()
        # Not optimize=True: Pillow cannot encode noise so.
        small.save(stream, "JPEG", quality=QUALITY, subsampling=0)
        uri = _uri("image/jpeg", stream.getvalue())
        if len(uri) <= limit or longest <= SMALLEST:
            return Embedded(uri, *size)
        longest = longest * 4 // 5


def png(picture: Image.Image) -> Embedded:
    """As PNG: exact, for what compresses well."""
    stream = BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return Embedded(_uri("image/png", stream.getvalue()), *picture.size)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
