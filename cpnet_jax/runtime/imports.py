"""Keeps optional packages that a library imports by itself out of the process."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(package: str) -> Iterator[None]:
    """Makes imports of a package raise ImportError, as if it were not installed; no effect if it is imported already.

    Only for libraries that work without the package.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # pyrefly: ignore[unsupported-operation]
    try:
        yield
    finally:
        del sys.modules[package]
