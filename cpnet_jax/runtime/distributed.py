"""Connects the processes of a run by JAX's distributed runtime."""

import os
import re
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import processes
from cpnet_jax.runtime.files import AnyPath

# How long the processes of a run wait for each other at its start, and how long they do so silently.
START_SECONDS, SILENT_SECONDS = 300, 30
OPEN_MPI_PROCESSES = "OMPI_COMM_WORLD_SIZE"
SLURM_STEP, SLURM_TASKS_OF_JOB, SLURM_TASKS_OF_STEP = "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"
# Slurm's numbers of the steps that run one shell: the interactive one of `salloc`, and the script of `sbatch`.
SLURM_SHELLS = ("4294967290", "4294967291")
KUBERNETES, KUBERNETES_INDEX = "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"
ALONE = "to run this process alone, add --num_processes=1"


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = START_SECONDS,
) -> None:
    """Connects this process to the others of its run. Call it before JAX looks for its devices.

    Without arguments JAX finds the processes that Cloud TPU, Slurm or Open MPI started. A process that was started
    alone stays alone, without delay.

    Args:
      coordinator: HOST:PORT of process 0, reachable from all processes.
      num_processes: number of processes in the run; 1: this process stays alone, however it was started.
      process_id: number of this process, from 0.
      timeout: seconds that the processes wait for each other.

    Raises:
      UserError: if the arguments contradict each other, or the launcher's settings cannot be read.
    """
    if num_processes == 1 and not process_id:
        return
    if coordinator is None and num_processes is None and process_id is None:
        _start_as_launched(timeout)
        return
    _check(coordinator, num_processes, process_id)
    if process_id == 0:
        waiting = f"{num_processes} processes, this one included, to meet at {coordinator}"
        reason = f"not all processes connected to process 0 at {coordinator} within {timeout:.0f} s"
    else:
        waiting = f"process 0 at {coordinator}"
        reason = f"process 0 was not reached at {coordinator}, or still waits for others, after {timeout:.0f} s"
    with _deadline(timeout, reason, waiting=waiting):
        # No detection: under Slurm it would leave each process one device of its host.
        jax.distributed.initialize(
            coordinator, num_processes, process_id, cluster_detection_method="deactivate", **_longer_than(timeout)
        )


def leave() -> None:
    """Waits until every process of the run leaves, as Python's normal exit does: JAX aborts those left behind."""
    jax.distributed.shutdown()


def refuse_several(mode: str) -> None:
    """Raises UserError if several processes were started for a mode that works in one."""
    if jax.process_count() > 1:
        raise UserError(
            f"--mode={mode} works in one process, and {jax.process_count()} were started: start it on one host alone, "
            "with --num_processes=1"
        )


def check_shared(workdir: AnyPath) -> None:
    """Raises UserError if the processes do not see the same workdir, which checkpoints need."""
    if jax.process_count() == 1:
        return
    # A new name each time, so that no network disk answers from its cache.
    marker = workdir / processes.gather(f".seen-by-all-{uuid.uuid4().hex}")[0]
    processes.on_all(lambda: marker.write_bytes(b"") if processes.is_main_process() else None)
    seen = processes.gather(marker.exists())
    if processes.is_main_process():
        marker.unlink(missing_ok=True)
    if not all(seen):
        raise UserError(
            f"--workdir is {workdir}, which process {seen.index(False)} does not share with process 0: name a folder "
            "that all hosts see, on a network disk or gs://BUCKET/FOLDER"
        )


def _start_as_launched(timeout: float) -> None:
    if _was_started_alone():
        return
    waiting = f"the other processes of this run{_expected()}; {ALONE}"
    reason = f"not all processes of this run{_expected()} found one another within {timeout:.0f} s"
    try:
        with _findable_pods(), _deadline(timeout, reason, waiting=waiting, alternative=f", or, {ALONE}"):
            jax.distributed.initialize(**_longer_than(timeout))
    except ValueError as error:
        # JAX raises this if it detects no launcher. Then this process is alone, unless the environment says otherwise.
        if "JAX_COORDINATOR_ADDRESS" in os.environ:
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS is set but not enough ({error}): give --coordinator, --num_processes "
                "and --process_id, or unset it"
            ) from error
        if OPEN_MPI_PROCESSES in os.environ:
            raise UserError(
                f"Open MPI started {os.environ[OPEN_MPI_PROCESSES]} processes, and JAX does not recognise this version "
                f"of it: give --coordinator=HOST:PORT, --num_processes=${OPEN_MPI_PROCESSES} and "
                f"--process_id=$OMPI_COMM_WORLD_RANK; {ALONE}"
            ) from error
    except Exception as error:  # detection may raise anything
        raise UserError(
            f"JAX cannot detect the processes of this run ({type(error).__name__}: {error}): give "
            "--coordinator, --num_processes and --process_id, or --num_processes=1 for a single process"
        ) from error


def _was_started_alone() -> bool:
    """Whether the launcher started only this process, even if its job has room for more."""
    if OPEN_MPI_PROCESSES in os.environ:
        return os.environ[OPEN_MPI_PROCESSES] == "1"
    tasks = os.environ.get(SLURM_TASKS_OF_STEP) or os.environ.get(SLURM_TASKS_OF_JOB)
    return tasks == "1" or os.environ.get(SLURM_STEP) in SLURM_SHELLS


def _expected() -> str:
    """What the launcher says about the number of processes, for messages."""
    for launcher, variable in (("Open MPI", OPEN_MPI_PROCESSES), ("Slurm", SLURM_TASKS_OF_JOB)):
        if variable in os.environ:
            return f" ({launcher} started {os.environ[variable]}, according to {variable})"
    return ""


@contextmanager
def _findable_pods() -> Iterator[None]:
    """Hides Kubernetes from JAX, except in the pods of an indexed Job: JAX finds no others, and would warn or fail."""
    hidden = None if KUBERNETES_INDEX in os.environ else os.environ.pop(KUBERNETES, None)
    try:
        yield
    finally:
        if hidden is not None:
            os.environ[KUBERNETES] = hidden


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [flag for flag, value in given.items() if value is None]
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(f"{', '.join(given)} belong together: add {' and '.join(missing)}")
    if num_processes < 1:
        raise UserError(f"--num_processes is {num_processes}: it must be 1 or more")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id is {process_id}: with --num_processes={num_processes} it must be between 0 and "
            f"{num_processes - 1}, and differ on every process"
        )
    address = re.fullmatch(r"(?:\[[\w:]+\]|[^\s:/]+):(\d+)", coordinator)
    if not address or not 0 < int(address[1]) < 2**16:
        raise UserError(f"--coordinator is {coordinator!r}: it must be HOST:PORT, for example node-0:1234")
    if process_id == 0:
        _check_free(int(address[1]))


def _check_free(port: int) -> None:
    """Checks that the port is free: JAX would end the process without a Python exception."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(
            f"--coordinator names port {port}, which process 0 cannot listen on ({error.strerror}): name another port, "
            "the same for every process"
        ) from error


@contextmanager
def _deadline(seconds: float, reason: str, *, waiting: str, alternative: str = "") -> Iterator[None]:
    """Ends the process with one sentence if it still waits after that time; JAX would abort it by a signal.

    Args:
      reason: what is wrong then.
      waiting: what it waits for; printed after SILENT_SECONDS.
      alternative: further advice at the end.
    """
    advice = "start the same command on every host within that time, and open that port between them"

    def note() -> None:
        print(f"Note: waiting up to {seconds:.0f} s for {waiting}", file=sys.stderr, flush=True)

    def give_up() -> None:
        print(f"error: {reason}: {advice}{alternative}", file=sys.stderr, flush=True)
        os._exit(UserError.exit_status)

    timers = [threading.Timer(SILENT_SECONDS, note), threading.Timer(seconds, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _longer_than(timeout: float) -> dict[str, Any]:
    """JAX's timeout, longer than `_deadline`."""
    return {"initialization_timeout": int(timeout) + 60}
