"""Returns freed memory to the system."""

import ctypes
from typing import Any

import jax

# Seconds. A faster compilation leaves little memory behind.
LONG_COMPILATION = 1.0
_COMPILATION = "/jax/core/compile/backend_compile_duration"


def return_after_compilations() -> None:
    """From now on, returns freed memory to the system after every long compilation.

    The compiler frees hundreds of megabytes in threads that allocate nothing later, and glibc would keep them.
    """
    jax.monitoring.register_event_duration_secs_listener(_return_if_long)


def _return_if_long(event: str, duration_secs: float, **_: Any) -> None:
    if event == _COMPILATION and duration_secs >= LONG_COMPILATION:
        return_freed()


def return_freed() -> None:
    """Returns freed memory to the system, if the C library is glibc; others have no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
