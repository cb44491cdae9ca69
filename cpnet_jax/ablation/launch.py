"""Several processes after one another, some at once."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from cpnet_jax.ablation.runs import Run
from cpnet_jax.errors import Stopped
from cpnet_jax.runtime import files

# Between two looks at the processes.
SECONDS = 0.2


def run_all(
    runs: Sequence[Run],
    environments: Sequence[dict[str, str]],
    main: Path,
    *,
    on_start: Callable[[Run], None],
    on_end: Callable[[Run, int], None],
) -> None:
    """Starts the runs in their order, as many at once as there are environments; each adds to its log.

    Args:
      environments: what to add to that of this process.
      main: the program, main.py.
      on_start: called with a run as it begins.
      on_end: called with a run and its exit status.

    Raises:
      Stopped: at Ctrl-C or SIGTERM (as KeyboardInterrupt), when the runs that were going on have saved and stopped.
      KeyboardInterrupt: at a second one, when they have stopped at once.
    """
    waiting, free, going = deque(runs), list(environments), {}
    try:
        while waiting or going:
            while waiting and free:
                run, environment = waiting.popleft(), free.pop(0)
                on_start(run)
                going[_start(run, environment, main)] = run, environment
            time.sleep(SECONDS)
            for process in [process for process in going if process.poll() is not None]:
                run, environment = going.pop(process)
                free.append(environment)
                on_end(run, process.returncode)
    except KeyboardInterrupt:
        _stop(list(going))
        raise Stopped("Stopped, with the runs saved: the same command goes on from there.") from None
    except BaseException:
        _stop(list(going))
        raise


def _start(run: Run, environment: dict[str, str], main: Path) -> subprocess.Popen:
    files.make_folder(run.workdir, "--out")
    with run.log.open("ab") as log:
        # In a session of its own, so that Ctrl-C on the terminal is for this process to pass on.
        return subprocess.Popen(
            run.command(main),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """As SIGTERM asks main.py to: it finishes its step and saves. A second Ctrl-C stops it at once, as there."""
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


def complaint(run: Run) -> str:
    """The error that a run's log ends with, or its last line."""
    lines = [line.strip() for line in run.log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it says nothing"])[-1].removeprefix("error: ")
