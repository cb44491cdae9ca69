"""Signal handling: SIGTERM, Ctrl-C, a closed terminal and a pod's preemption notice.

A thread waits for the signals. So they are noticed while the main thread compiles, and never raise an exception in the
middle of other code.
"""

import errno
import os
import signal
import termios
import threading
from collections.abc import Callable
from contextlib import suppress

from cpnet_jax.errors import Stopped
from cpnet_jax.runtime import exit_status

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Requests to stop the process.

    Before the first training step, a signal ends the process at once. After it, `requested` reports the signal, and
    only Ctrl-C after another signal ends the process at once.
    """

    def __init__(self) -> None:
        self._training = self._steps_at_risk = self._requested = False
        self._clean_up: Callable[[], None] = lambda: None

    def listen(self) -> None:
        """Starts listening. Call it once, in the main thread, before other threads start: they inherit the mask."""
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores some
        for number in heard:
            # For threads in which a library unblocks the signals, as multiprocessing does.
            signal.signal(number, lambda number, _: self._receive(signal.Signals(number)))
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        threading.Thread(target=self._wait, args=[heard], name="stop", daemon=True).start()

    def expect_training(self) -> None:
        """Makes a stop from here on exit with the status of a run that can be resumed."""
        self._training = True

    def before_exit(self, clean_up: Callable[[], None]) -> None:
        """Calls the function before a signal ends the process at once."""
        self._clean_up = clean_up

    def step_taken(self) -> None:
        """Makes a stop from here on wait until the steps are saved."""
        self._steps_at_risk = True

    def request(self) -> None:
        """Requests a stop, as a signal does."""
        if not self._requested:
            self._requested = True
            if _in_jax_runtime():
                _notify_other_processes()

    def requested(self, step: int) -> bool:
        """Whether to stop at this step. All processes must call it at every step, and get the same answer."""
        if not _in_jax_runtime():
            return self._requested
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _wait(self, signals: list[signal.Signals]) -> None:
        while True:
            self._receive(signal.Signals(signal.sigwait(signals)))

    def _receive(self, number: signal.Signals) -> None:
        again = self._requested and number == signal.SIGINT
        _replace_lost_terminals()
        if not self._training or again:
            _print(f"{number.name}: stopped at once")
            self._clean_up()
            exit_status.at_once(128 + number)
        elif not self._steps_at_risk:
            _print(f"{number.name}: stopped before the first step, with nothing to save")
            exit_status.at_once(Stopped.exit_status)
        elif not self._requested:
            _print(f"{number.name}: stopping after this step or evaluation, then saving. Press Ctrl-C to stop at once")
            self.request()


def _in_jax_runtime() -> bool:
    import jax  # imported here so that signals are handled from the start and --help answers at once

    return jax.distributed.is_initialized()


def _notify_other_processes() -> None:
    """Raises SIGTERM for the handler that JAX's runtime installed over ours; it notifies all processes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    signal.raise_signal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _replace_lost_terminals() -> None:
    """Sends output to /dev/null if its terminal was closed: printing must not fail before the steps are saved."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _print(line: str) -> None:
    """Writes to the file descriptor, because the main thread may hold the lock of sys.stderr."""
    with suppress(OSError):  # its reader may have exited
        os.write(2, f"\n{line}\n".encode())
