"""Processes connect to one another, and failures to do so are reported."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from multihost.processes import finish, free_port, start
from whole_program import command, write_camvid

from cpnet_jax.config.same_run import check_same_everywhere
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import distributed

ROOT = Path(__file__).parents[2]
START = """
import os, sys, jax
from cpnet_jax.runtime import distributed
address, count, index = sys.argv[1:] or (None, None, None)
timeout = float(os.environ.get("TIMEOUT", 5))
distributed.start(address, count and int(count), index and int(index), timeout=timeout)
print("processes", jax.process_count(), "runtime", jax.distributed.is_initialized())
"""
MISTAKES = {
    "an address is missing": ((None, 2, 0), "add --coordinator$"),
    "a number is missing": (("host:1234", None, 0), "add --num_processes$"),
    "two are missing": (("host:1234", None, None), "add --num_processes and --process_id$"),
    "an id out of range": (("host:1234", 2, 2), "--process_id is 2"),
    "a negative id": (("host:1234", 2, -1), "--process_id is -1"),
    "no processes": (("host:1234", 0, 0), "--num_processes is 0"),
    "an address without a port": (("host", 2, 1), "--coordinator is 'host'"),
    "a port out of range": (("host:70000", 2, 1), "--coordinator is 'host:70000'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_impossible_flags_are_named(mistake):
    arguments, named = MISTAKES[mistake]
    with pytest.raises(UserError, match=named):
        distributed.start(*arguments)
    assert not jax.distributed.is_initialized()


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}"):
            distributed.start(f"localhost:{port}", 2, 0)


# A task of Slurm, in a job with four tasks.
SLURM_TASK = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SLURM_TASK |= {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0"}
ALONE = {
    "by hand": {},
    "a Slurm job with one task": {"SLURM_NTASKS": "1"},
    "Open MPI with one process": {"OMPI_COMM_WORLD_SIZE": "1"},
    "the shell of salloc": SLURM_TASK | {"SLURM_STEP_ID": "4294967290"},
    "the script of sbatch": SLURM_TASK | {"SLURM_STEP_ID": "4294967291"},
    "a step with one task": SLURM_TASK | {"SLURM_STEP_NUM_TASKS": "1"},
    "a pod of Kubernetes": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
}


START_ALONE = """
import json, os, sys, jax
from cpnet_jax.runtime import distributed
sys.modules["kubernetes"] = None  # JAX would warn that it is missing
for name, launched in json.loads(sys.argv[1]).items():
    os.environ.update(launched)
    distributed.start()
    distributed.start(num_processes=1)
    assert not jax.distributed.is_initialized(), name
    for variable in launched:
        del os.environ[variable]
"""


def test_a_single_process_starts_no_distributed_runtime():
    """In a new process, since JAX refuses to connect to others after it has used devices."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    program = [sys.executable, "-W", "error::UserWarning", "-c", START_ALONE, json.dumps(ALONE)]
    result = subprocess.run(program, env=environment, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_an_unknown_open_mpi_is_refused():
    [(status, _, err)] = finish([start("-c", START, OMPI_COMM_WORLD_SIZE="4")])
    assert status and re.search(r"Open MPI started 4 processes.*--process_id=\$OMPI_COMM_WORLD_RANK", err), err


def test_a_process_that_waits_says_for_whom_and_how_to_run_alone():
    impatient = START.replace("distributed.start(", "distributed.SILENT_SECONDS = 1; distributed.start(")
    address = f"localhost:{free_port()}"
    launched = start("-c", impatient, **SLURM_TASK | {"SLURM_JOB_ID": str(free_port())})
    by_flags = start("-c", impatient, address, 2, 1)
    (status, _, err), (status_by_flags, _, err_by_flags) = finish([launched, by_flags])
    assert status == status_by_flags == 2
    [note, error] = [line for line in err.splitlines() if line.startswith(("Note: ", "error: "))]
    expected = "(Slurm started 4, according to SLURM_NTASKS)"
    assert note.startswith("Note: waiting") and expected in note and "--num_processes=1" in note
    assert expected in error and "--num_processes=1" in error
    assert f"Note: waiting up to 5 s for process 0 at {address}" in err_by_flags


def test_launchers_are_recognised_and_missing_processes_are_reported():
    def slurm(index):
        job = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost"}
        return job | {"SLURM_NTASKS": "2", "SLURM_PROCID": index, "SLURM_LOCALID": index, "TIMEOUT": "300"}

    def open_mpi(index):
        job = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}
        return job | {"OMPI_COMM_WORLD_RANK": index, "OMPI_COMM_WORLD_LOCAL_RANK": index, "TIMEOUT": "300"}

    job = slurm("0")
    together = [start("-c", START, **job), start("-c", START, **job | {"SLURM_PROCID": "1"})]
    together += [start("-c", START, **open_mpi(index)) for index in "01"]
    address = f"localhost:{free_port()}"
    lonely = [start("-c", START, address, 2, 1), start("-c", START, f"localhost:{free_port()}", 2, 0)]
    for status, out, err in finish(together):
        assert status == 0 and "processes 2 runtime True" in out, out + err
    (status, _, err), (status0, _, err0) = finish(lonely)
    assert status == status0 == 2
    assert f"error: process 0 was not reached at {address}" in err
    assert "error: not all processes connected" in err0


LEAVE_WHILE_COMPILING = """
import sys, threading, time
import jax
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import background, distributed, exit_status
address, index, status = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def program():
    distributed.start(address, 2, index, timeout=300)
    jax.devices()
    if index == 0:
        background.run(threading.Event().wait)
    else:
        time.sleep(3)
    if status:
        raise UserError("a mistake")

exit_status.run(program)
"""


def test_a_process_that_ends_while_it_compiles_does_not_abort_the_others():
    together = []
    for status in "02":
        address = f"localhost:{free_port()}"
        together += [start("-c", LEAVE_WHILE_COMPILING, address, index, status) for index in "01"]
    for (status, out, err), right in zip(finish(together), (0, 0, 2, 2), strict=True):
        assert status == right, out + err


FAIL_ALONE = """
import sys, threading
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import distributed, exit_status
exit_status.SECONDS_TO_LEAVE = 2
address, index = sys.argv[1], int(sys.argv[2])

def program():
    distributed.start(address, 3, index, timeout=300)
    if index == 1:
        raise UserError("a mistake")
    if index == 2:
        raise KeyError("a defect")
    print("ready", flush=True)
    threading.Event().wait()  # as in a collective

exit_status.run(program)
"""


def test_a_process_that_fails_alone_does_not_wait_for_those_that_wait_for_it():
    address = f"localhost:{free_port()}"
    waiting, *alone = [start("-c", FAIL_ALONE, address, index) for index in range(3)]
    try:
        assert waiting.stdout.readline() == "ready\n"
        outputs = [process.communicate(timeout=60)[1] for process in alone]
        assert waiting.poll() is None
    finally:
        for process in (waiting, *alone):
            process.kill()
            process.communicate()
    assert [process.returncode for process in alone] == [2, 1]
    assert "error: a mistake" in outputs[0] and "KeyError: 'a defect'" in outputs[1]


TRAIN = """
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock
from configs import quickstart
from cpnet_jax.modes import train
from cpnet_jax.runtime import distributed, exit_status
address, index, workdir = sys.argv[1:]
train.Experiment = lambda config, **_: Mock(config=config, description=dict)
train.Checkpoints = lambda folder: nullcontext(Mock())
train._start = lambda *_: (None, 0)

def program():
    distributed.start(address, 2, int(index), timeout=300)
    train.train(quickstart.get_config(), Path(workdir), Mock())

exit_status.run(program)
"""


def test_every_process_says_at_once_why_process_0_cannot_start(tmp_path):
    (tmp_path / "config.json").mkdir()
    address = f"localhost:{free_port()}"
    for status, _, err in finish([start("-c", TRAIN, address, index, tmp_path) for index in range(2)]):
        [line] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 2 and f"{tmp_path}/config.json" in line, err


def test_processes_with_different_configs_or_data_are_refused():
    ours = {"seed": 0, "data": {"dir": "here"}, "trained_on": {"fingerprint": "a"}}
    check_same_everywhere([ours, ours | {"data": {"dir": "there"}}])
    with pytest.raises(UserError, match=r"config\.seed is 0 on process 0 and 1 on process 2"):
        check_same_everywhere([ours, ours, ours | {"seed": 1}])
    with pytest.raises(UserError, match=r"trained_on\.fingerprint"):
        check_same_everywhere([ours, ours | {"trained_on": {"fingerprint": "b"}}])


@pytest.mark.long
def test_two_processes_train_as_one_program(tmp_path):
    """Only process 0 writes and prints; a mistake on process 1 ends both with the same line."""
    write_camvid(tmp_path / "camvid")
    short = ("--config.total_steps=2", "--config.eval.pictures=0", "--config.model.depth=18")

    def run(*overrides, mode="train", workdirs=("run", "run")):
        address = f"--coordinator=localhost:{free_port()}"
        together = [
            start(*command(tmp_path, tmp_path / workdirs[index], *overrides, mode=mode)[1:], address,
                  "--num_processes=2", f"--process_id={index}")
            for index in range(2)
        ]  # fmt: skip
        return finish(together)

    (status, out, err), (status1, out1, err1) = run(*short)
    assert status == status1 == 0, err + err1
    assert "2 CPU device(s) of 2 processes" in out and "mIoU" in out
    assert "Step" not in out1 and "mIoU" not in out1 and "Training" not in err1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["images"] == 3

    (status, out, _), (status1, out1, _) = run(*short)
    assert status == status1 == 0
    assert "is finished" in out and "is finished" not in out1

    for status, _, err in run(*short, workdirs=("one", "other")):
        assert status == 2 and "which process 1 does not share with process 0" in err
    for status, _, err in run(*short, mode="check_data"):
        assert status == 2 and "--mode=check_data works in one process" in err
