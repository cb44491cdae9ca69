"""Runs functions in threads while the main thread goes on."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_running: set[Future] = set()


def run(function: Callable[[], T]) -> "Future[T]":
    """Starts a function in a daemon thread; the result, or its exception, is that of the returned future."""
    future: Future[T] = Future()
    _running.add(future)

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
        finally:
            _running.discard(future)

    threading.Thread(target=work, name="background", daemon=True).start()
    return future


def busy() -> bool:
    """Whether a function still runs. Python's normal exit would then crash JAX if it compiles."""
    return bool(_running)
