"""Returns freed memory to the system, refuses batches larger than all memory, and knows a lack of memory."""

import ctypes
import os
from typing import Any

import jax

from cpnet_jax.errors import UserError

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


def is_lacking(error: BaseException) -> bool:
    """Whether JAX raised an error because a device's memory was not enough.

    The compiler or an allocation says RESOURCE_EXHAUSTED. A program whose input failed for it says INTERNAL on CPUs,
    and repeats the message.
    """
    text = str(error)
    return isinstance(error, jax.errors.JaxRuntimeError) and (
        "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
    )


def check_fits(field: str, value: int, size: int) -> None:
    """Raises UserError if a batch alone is larger than this machine's memory.

    Args:
      field: the config field that sets the size of the batch.
      value: its value.
      size: bytes of the images in a batch on this machine, before anything is computed from them.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise UserError(
            f"config.{field} is {value}: the images of a batch take {size / 2**30:.1f} GiB, and this machine has "
            f"{memory / 2**30:.1f} GiB, so lower it"
        )
