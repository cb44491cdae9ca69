"""Starts the runs of a table as processes, several at a time, and stops them on request."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from cpnet_jax.ablation.devices import Place
from cpnet_jax.ablation.runs import Run
from cpnet_jax.errors import Stopped
from cpnet_jax.runtime import files

POLL_SECONDS = 0.2


def run_all(
    runs: Sequence[Run],
    places: Sequence[Place],
    main: Path,
    *,
    on_start: Callable[[Run], None],
    on_end: Callable[[Run, int], None],
) -> None:
    """Starts the runs in order, as many at a time as there are places; each appends to its log.

    Args:
      runs: to start.
      places: of the simultaneous runs.
      main: path of main.py.
      on_start: called with a run that starts.
      on_end: called with a run that ended and its exit status.

    Raises:
      Stopped: after a KeyboardInterrupt (Ctrl-C or SIGTERM), when the current runs have saved and ended.
      KeyboardInterrupt: after a second one, when the current runs have ended without saving.
    """
    waiting, free, running = deque(runs), list(places), {}
    try:
        while waiting or running:
            while waiting and free:
                run, place = waiting.popleft(), free.pop(0)
                on_start(run)
                running[_start(run, place, main)] = run, place
            time.sleep(POLL_SECONDS)
            for process in [process for process in running if process.poll() is not None]:
                run, place = running.pop(process)
                free.append(place)
                on_end(run, process.returncode)
    except KeyboardInterrupt:
        _stop(list(running))
        raise Stopped("Stopped, with the runs saved: run the same command to continue.") from None
    except BaseException:
        _stop(list(running))
        raise


def _start(run: Run, place: Place, main: Path) -> subprocess.Popen:
    files.make_folder(run.workdir, "--out")
    with run.log.open("ab") as log:
        # In a new session, so that only this process gets Ctrl-C from the terminal; it forwards it.
        process = subprocess.Popen(
            run.command(main),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | place.environment,
            start_new_session=True,
        )
    if place.cores:
        # JAX starts as many threads as the process may use cores. It is imported long after this.
        os.sched_setaffinity(process.pid, place.cores)
    return process


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ends the runs by SIGTERM, which lets them finish their step and save; by SIGINT after a second Ctrl-C."""
    try:
        _end(processes, signal.SIGTERM)
    except KeyboardInterrupt:
        _end(processes, signal.SIGINT)
        raise


def _end(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        process.send_signal(number)
    for process in processes:
        process.wait()


def failure(run: Run, status: int) -> str:
    """Why a run failed, from its exit status and its log; a negative status is the signal that ended it."""
    if status == -signal.SIGKILL:
        why = "it was killed, most likely out of memory"
        return f"{why}: give fewer --jobs, or a lower config.batch_size with another --out"
    return f"exit status {status}, {last_error(run)}"


def last_error(run: Run) -> str:
    """The last error in a run's log, or its last line if no error is logged."""
    lines = [
        line.strip() for line in run.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["the log is empty"])[-1].removeprefix("error: ")
