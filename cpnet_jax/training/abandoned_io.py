"""Hides what is printed about reads and writes that were abandoned because another one failed.

If one of many arrays cannot be read or written, Orbax raises its error and closes its event loop. Python then prints a
traceback for each of the others, some of them from TensorStore's threads. `checkpoint` reports the error itself.
"""

import functools
import inspect
import sys
from typing import Any


@functools.cache  # once for the process
def hide() -> None:
    """Installs the filter."""
    sys.unraisablehook = functools.partial(_unless_abandoned, sys.unraisablehook)


def _unless_abandoned(show: Any, unraisable: Any) -> None:
    source, error = unraisable.object, unraisable.exc_value
    of_orbax = inspect.iscoroutine(source) and "orbax" in source.cr_code.co_filename
    # TensorStore's threads name no object.
    of_tensorstore = source is None and isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    if not (of_orbax or of_tensorstore):
        show(unraisable)
