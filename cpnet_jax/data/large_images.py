"""Bounds the memory that large images take: few at the same time, and few of their rows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cpnet_jax.data import image_files

MOST = 50_000_000  # pixels in work; one image may have more, and is then alone
PIXELS_AT_ONCE = 2**20
_done = threading.Condition()
_in_work = 0


@contextmanager
def work_on(*files: bytes) -> Iterator[None]:
    """Waits until the images in these files can be decoded without too many others; use it around all work on them.

    Args:
      files: the bytes of image files, which need not be sound.
    """
    global _in_work
    pixels = sum(map(image_files.announced_pixels, files))
    with _done:
        _done.wait_for(lambda: not _in_work or _in_work + pixels <= MOST)
        _in_work += pixels
    try:
        yield
    finally:
        with _done:
            _in_work -= pixels
            _done.notify_all()


def bands(height: int, width: int) -> Iterator[slice]:
    """Yields slices of rows of about PIXELS_AT_ONCE pixels, for operations that need many bytes a pixel."""
    step = max(PIXELS_AT_ONCE // max(width, 1), 1)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))
