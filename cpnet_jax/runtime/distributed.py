"""Several processes as one program, by JAX's own distributed runtime."""

import os
import re
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import processes

# That the processes of a run wait for one another at its start.
START_SECONDS = 300
# Where these say that there is one process only, its launcher is of no interest.
LAUNCHED_BY_OPEN_MPI, LAUNCHED_BY_SLURM = "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = START_SECONDS,
) -> None:
    """Joins this process with the others of its run; to be called before JAX looks for its devices.

    Without arguments JAX finds the processes where Cloud TPU, Slurm or Open MPI started them, and a process that
    nobody started with others stays alone, without delay.

    Args:
      coordinator: HOST:PORT of process 0, where it can be reached by all.
      num_processes: of the run; 1: this one stays alone, whatever started it.
      process_id: of this one, from 0 on.
      timeout: seconds that the processes wait for one another.

    Raises:
      UserError: where the arguments cannot be right, or nothing can be found out.
    """
    if num_processes == 1 and not process_id:
        return
    if coordinator is None and num_processes is None and process_id is None:
        _start_as_launched(timeout)
        return
    _check(coordinator, num_processes, process_id)
    with _deadline(timeout, coordinator, process_id):
        # Without detection, which under Slurm would leave a process one device of its host.
        jax.distributed.initialize(
            coordinator, num_processes, process_id, cluster_detection_method="deactivate", **_longer_than(timeout)
        )


def refuse_several(mode: str) -> None:
    """Raises UserError where several processes were started for what one does alone."""
    if jax.process_count() > 1:
        raise UserError(
            f"--mode={mode} works in one process, and {jax.process_count()} were started: start it on one host alone, "
            "with --num_processes=1"
        )


def check_shared(workdir: Path) -> None:
    """Raises UserError where the processes do not all see one and the same workdir, which checkpoints need."""
    if jax.process_count() == 1:
        return
    # Of a name that was never there, so that no network disk answers from its memory.
    marker = workdir / processes.gather(f".seen-by-all-{uuid.uuid4().hex}")[0]
    if processes.is_main_process():
        marker.write_text("")
    processes.wait_for_all()
    seen = processes.gather(marker.exists())
    if processes.is_main_process():
        marker.unlink(missing_ok=True)
    if not all(seen):
        raise UserError(
            f"--workdir is {workdir}, which process {seen.index(False)} does not share with process 0: name a folder "
            "that all hosts see, on a network disk or gs://BUCKET/FOLDER"
        )


def _start_as_launched(timeout: float) -> None:
    launched = os.environ.get(LAUNCHED_BY_OPEN_MPI) or os.environ.get(LAUNCHED_BY_SLURM)
    if launched == "1":
        return
    try:
        with _deadline(timeout):
            jax.distributed.initialize(**_longer_than(timeout))
    except ValueError as error:
        # What JAX raises where it detects nothing: this process is alone, unless somebody has begun to say otherwise.
        if "JAX_COORDINATOR_ADDRESS" in os.environ:
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS is set but does not suffice ({error}): give --coordinator, --num_processes "
                "and --process_id, or unset it"
            ) from error
    except Exception as error:  # of whatever the launcher's surroundings were asked by
        raise UserError(
            f"the processes of this run cannot be found out ({type(error).__name__}: {error}): name them by "
            "--coordinator, --num_processes and --process_id, or give --num_processes=1 for a process alone"
        ) from error


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [flag for flag, value in given.items() if value is None]
    if missing:
        raise UserError(f"{', '.join(given)} belong together: {' and '.join(missing)} missing, so add what lacks")
    if num_processes < 1:
        raise UserError(f"--num_processes is {num_processes}: it must be 1 or more")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id is {process_id}: with --num_processes={num_processes} it must be between 0 and "
            f"{num_processes - 1}, another one for every process"
        )
    address = re.fullmatch(r"(?:\[[\w:]+\]|[^\s:/]+):(\d+)", coordinator)
    if not address or not 0 < int(address[1]) < 2**16:
        raise UserError(f"--coordinator is {coordinator!r}: it must be HOST:PORT, node-0:1234 for instance")
    if process_id == 0:
        _check_free(int(address[1]))


def _check_free(port: int) -> None:
    """JAX ends a process whose port is taken without a word of Python."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(
            f"--coordinator names port {port}, which process 0 cannot listen on ({error.strerror}): name another one, "
            "the same for every process"
        ) from error


@contextmanager
def _deadline(seconds: float, coordinator: str | None = None, process_id: int | None = None) -> Iterator[None]:
    """Ends the process with one sentence where it still waits for the others then: JAX would abort it, by a signal."""
    address = f" at {coordinator}" if coordinator else ""
    if process_id == 0:
        reason = f"not all of the other processes came to process 0{address} within {seconds:.0f} s"
    else:
        reason = f"process 0 was not reached{address}, or waits for others, after {seconds:.0f} s"
    advice = "start the same command on every host at about the same time, and let their network pass that port"

    def give_up() -> None:
        print(f"error: {reason}: {advice}", file=sys.stderr, flush=True)
        os._exit(UserError.exit_status)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _longer_than(timeout: float) -> dict[str, Any]:
    """For JAX to wait: longer than `_deadline`."""
    return {"initialization_timeout": int(timeout) + 60}
