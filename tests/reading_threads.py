"""Reads a source by many threads that take turns as often as possible."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def read_by_threads(source, files):
    """Fails if a thread reads other bytes than those in `files`, name -> content."""
    names = list(np.random.default_rng(0).permutation(source.names * 5))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(16) as pool:
            assert all(data == files[name] for name, data in zip(names, pool.map(source.read, names), strict=True))
    finally:
        sys.setswitchinterval(interval)
