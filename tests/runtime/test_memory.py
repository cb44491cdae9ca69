"""Freed memory returns to the system after long compilations."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cpnet_jax.runtime import memory

# Blocks below glibc's threshold for separate mappings. The last one stays, so that the heap does not shrink by itself.
FREE_AND_MEASURE = """
import ctypes, sys
from cpnet_jax.runtime import memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(2**16) for _ in range(2**10)]
for block in blocks:
    ctypes.memset(ctypes.c_void_p(block), 1, 2**16)
for block in blocks[:-1]:
    libc.free(block)
before = resident()
memory.return_freed()
print((before - resident()) // 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_returns_to_the_system():
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", FREE_AND_MEASURE], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 48


@pytest.mark.parametrize(("long", "returns"), [(0.0, True), (60.0, False)])
def test_only_long_compilations_return_memory(long, returns, monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "LONG_COMPILATION", long)
    monkeypatch.setattr(memory, "return_freed", lambda: calls.append(None))
    memory.return_after_compilations()
    try:
        jax.jit(lambda x: x + long).lower(jnp.zeros(3)).compile()
    finally:
        jax.monitoring.unregister_event_duration_listener(memory._return_if_long)
    assert bool(calls) == returns
