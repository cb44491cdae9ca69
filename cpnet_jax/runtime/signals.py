"""Being asked to stop: SIGTERM, Ctrl-C, and a pod's preemption notice.

A thread of its own waits for the signals, so that they are heard while the main thread is inside a compilation, and
so that nothing is ever raised in the middle of somebody else's code.
"""

import os
import signal
import threading

from cpnet_jax.errors import Stopped
from cpnet_jax.runtime import exit_status

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether to stop, and when.

    A signal ends the process at once, until the first step of a training is taken: from there on it is for `requested`
    to tell, and only a Ctrl-C after another signal ends the process at once.
    """

    def __init__(self) -> None:
        self._training = self._steps_at_risk = self._asked = False

    def listen(self) -> None:
        """To be called once, by the main thread before it starts others: they inherit that the signals are blocked."""
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores some
        for number in heard:
            # For threads where a library unblocks them, as multiprocessing does.
            signal.signal(number, lambda number, _: self._hear(signal.Signals(number)))
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        threading.Thread(target=self._wait, args=[heard], name="stop", daemon=True).start()

    def expect_training(self) -> None:
        """What is stopped from here on can be taken up again, and the exit status says so."""
        self._training = True

    def step_taken(self) -> None:
        """From here on there is something to lose."""
        self._steps_at_risk = True

    def requested(self, step: int) -> bool:
        """Whether to stop at this step, the same for all processes; to be asked by each of them at every step."""
        if not _in_jax_runtime():
            return self._asked
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _wait(self, signals: list[signal.Signals]) -> None:
        while True:
            self._hear(signal.Signals(signal.sigwait(signals)))

    def _hear(self, number: signal.Signals) -> None:
        again = self._asked and number == signal.SIGINT
        if not self._training or again:
            _say(f"{number.name}: stopped at once")
            exit_status.at_once(128 + number)
        elif not self._steps_at_risk:
            _say(f"{number.name}: stopped before the first step, with nothing to save")
            exit_status.at_once(Stopped.exit_status)
        elif not self._asked:
            self._asked = True
            _say(f"{number.name}: stopping after this step, or evaluation, and saving; Ctrl-C now: stop at once")
            if _in_jax_runtime():
                _tell_the_other_processes()


def _in_jax_runtime() -> bool:
    import jax  # not above: signals are heard from the first moment, and --help answers at once

    return jax.distributed.is_initialized()


def _tell_the_other_processes() -> None:
    """JAX's runtime put its own handler in place of ours when it began: a notice to all processes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    signal.raise_signal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _say(line: str) -> None:
    """By the shortest way: the main thread may hold the lock of sys.stderr."""
    os.write(2, f"\n{line}\n".encode())
