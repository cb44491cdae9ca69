"""Runs the program many times, importing it once:  python forked_program.py OUTPUT [small] < COMMANDS

COMMANDS is a JSON list of argument lists. Each runs in its own fork. OUTPUT gets a JSON list of status, stdout, stderr.
"small" stands for the backbone of small_main.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_all(commands, environment, *options):
    """Returns a `CompletedProcess` for each list of arguments of main.py."""
    with tempfile.NamedTemporaryFile() as output:
        subprocess.run(
            [sys.executable, __file__, output.name, *options],
            input=json.dumps([list(map(str, arguments)) for arguments in commands]),
            cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT)},
            text=True,
            check=True,
        )
        results = json.loads(Path(output.name).read_text())
    return [subprocess.CompletedProcess(args, *result) for args, result in zip(commands, results, strict=True)]


def run_fork(arguments):
    """Returns exit status, stdout and stderr of the program with these arguments."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if not (child := os.fork()):
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["main.py", *arguments]
            program.run()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


if __name__ == "__main__":
    small = "small" in sys.argv[2:]
    if small:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in small_main.py
    # A fork must not start with threads or devices: importing makes neither.
    from small_main import use_small_backbone

    from cpnet_jax.modes import program, train  # noqa: F401

    if small:
        use_small_backbone()
    Path(sys.argv[1]).write_text(json.dumps([run_fork(arguments) for arguments in json.load(sys.stdin)]))
