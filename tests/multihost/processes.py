"""Starts several processes of one run on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT}/tests", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    """Waits for the processes; returns exit status, stdout and stderr of each. A hang fails after 20 minutes.

    A slow machine that runs other tests beside these has taken more than five.
    """
    try:
        outputs = [process.communicate(timeout=1200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def run_processes(program, folder, count=2):
    """Runs `python PROGRAM FOLDER INDEX COUNT PORT` for every INDEX at the same time; all must succeed."""
    port = free_port()
    for status, out, err in finish([start(program, folder, index, count, port) for index in range(count)]):
        assert status == 0, out + err
