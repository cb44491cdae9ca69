"""Faults injected into the real program, many times:  make test-faults

Prints a table of faults with the number of tries, the steps lost, and the outcome.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
from faults.disks import fill, mounted
from faults.tiny_run import CHECKPOINT_EVERY, Run, assert_as_uninterrupted, checkpoint_steps, final_state, logged_steps

pytestmark = pytest.mark.long
KILLS = int(os.environ.get("KILLS", 20))


@pytest.fixture(scope="module")
def table():
    rows = []
    yield lambda *row: rows.append([str(cell) for cell in row])
    rows.insert(0, ["fault", "tries", "steps lost", "outcome"])
    print()
    for row in rows:
        print(f"| {' | '.join(row)} |")


def finish(folder, workdir, reference):
    with Run(folder, workdir) as run:
        assert run.status() == 0, run.output()
    assert_as_uninterrupted(workdir, reference)
    return run


def lost_steps(workdir):
    """Number of steps logged since the newest whole checkpoint."""
    saved = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    return logged_steps(workdir) - max(saved, default=0)


def span(numbers):
    return f"{min(numbers)} to {max(numbers)}" if min(numbers) < max(numbers) else str(numbers[0])


@pytest.mark.parametrize("when", ["at any moment", "while a checkpoint is written"])
def test_killed(folder, undisturbed, table, when):
    """Each start resumes the run killed before. A run that finishes is compared, and a new one is started."""
    rng = np.random.default_rng(len(when))
    workdir, lost, finished = folder / f"killed {when}", [], 1

    def reached(run):
        if when == "at any moment":
            return run.until_some_moment(rng)
        writing = run.until(lambda: any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")))
        time.sleep(rng.uniform(0, 0.3))
        return writing

    while len(lost) < KILLS // 2:
        with Run(folder, workdir) as run:
            killed = reached(run)
            if killed:
                run.kill()
                lost.append(lost_steps(workdir))
            else:
                assert run.status() == 0, run.output()
        if not killed:
            assert_as_uninterrupted(workdir, undisturbed)
            shutil.rmtree(workdir)
            finished += 1
    finish(folder, workdir, undisturbed)
    assert max(lost) <= 2 * CHECKPOINT_EVERY, (
        "at most the steps since the last whole checkpoint, while the newest is being written"
    )
    table(f"kill -9 {when}", len(lost), span(lost), f"{finished} run(s) resumed and finished, bit for bit the same")


@pytest.mark.parametrize(("name", "tries"), [("SIGTERM", 4), ("SIGINT", 4), ("SIGHUP", 4)])
def test_asked_to_stop_at_any_moment(folder, undisturbed, table, name, tries):
    rng = np.random.default_rng(tries + len(name))
    workdir, lost = folder / name, []
    while len(lost) < tries:
        with Run(folder, workdir) as run:
            if run.until_some_moment(rng):
                run.send(signal.Signals[name])
            status = run.status()
        assert "Traceback" not in run.output()
        if status == 0:  # it had finished
            assert_as_uninterrupted(workdir, undisturbed)
            shutil.rmtree(workdir)
        else:
            assert status == 75, run.output()
            lost.append(lost_steps(workdir))
    assert max(lost) == 0
    finish(folder, workdir, undisturbed)
    table(name, tries, span(lost), "exit 75; resumed bit for bit")


@pytest.mark.parametrize("name", ["state", "config", "SHA256SUMS"])
def test_a_flipped_byte(folder, undisturbed, table, name):
    """In one file; test_damaged_checkpoints covers every file."""
    workdir = folder / f"flipped {name}"
    with Run(folder, workdir, eval_every=4) as run:
        assert run.until(lambda: (workdir / "checkpoints" / "6").exists())
        run.kill()
    newest = max((p for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()), key=lambda p: int(p.name))
    file = max((p for p in [newest / name, *(newest / name).rglob("*")] if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    run = finish(folder, workdir, undisturbed)
    assert f"{newest.name} is damaged and skipped" in run.output() and run.resumed_at() == 4
    assert (workdir / "checkpoints" / f"{newest.name}.damaged").is_dir()
    table(f"a flipped byte in {name}", 1, int(newest.name) - 4, "reported, set aside, the older checkpoint used")


def test_a_full_disk(folder, undisturbed, table):
    with mounted(folder / "small", "size=1g") as disk:
        workdir = disk / "run"
        with Run(folder, workdir) as run:
            assert run.until(lambda: any(p.name.isdecimal() for p in (workdir / "checkpoints").glob("*")))
            fill(disk)
            run.assert_refused("No space left on device")
        steps = checkpoint_steps(workdir)
        lost = lost_steps(workdir)
        (disk / "filler").unlink()
        assert finish(folder, workdir, undisturbed).resumed_at() == max(steps)
    table("disk full", 1, lost, "exit 2, the last checkpoint whole; after freeing space, resumed bit for bit")


def test_a_read_only_disk(folder, undisturbed, table):
    with mounted(folder / "read_only", "ro") as disk, Run(folder, disk / "run") as run:
        run.assert_refused("--workdir is", "Read-only file system")
    table("read-only workdir", 1, 0, "exit 2 before the first step")


def test_an_immutable_checkpoints_folder(folder, undisturbed, table):
    """Uses the immutable attribute, since root can write to read-only folders."""
    workdir = folder / "immutable"
    checkpoints = workdir / "checkpoints"
    with Run(folder, workdir) as run, ExitStack() as stack:
        assert run.until(lambda: any(p.name.isdecimal() for p in checkpoints.glob("*")))
        if not shutil.which("chattr") or subprocess.run(["chattr", "+i", checkpoints], capture_output=True).returncode:
            pytest.skip("chattr +i does not work here")
        stack.callback(subprocess.run, ["chattr", "-i", checkpoints], check=True)
        run.assert_refused(f"{checkpoints}")
    lost = lost_steps(workdir)
    finish(folder, workdir, undisturbed)
    table("checkpoints/ read-only during a run", 1, lost, "exit 2; after making it writable, resumed bit for bit")


def test_a_vanishing_workdir(folder, undisturbed, table):
    workdir = folder / "vanishing"
    with Run(folder, workdir) as run:
        assert run.until_trained(4)
        workdir.rename(folder / "away")
        run.assert_refused(f"{workdir}/checkpoints", "could not be written")
    lost = lost_steps(folder / "away")
    shutil.rmtree(workdir, ignore_errors=True)
    (folder / "away").rename(workdir)
    finish(folder, workdir, undisturbed)
    table("workdir vanishes", 1, lost, "exit 2 at the next step; after putting it back, resumed bit for bit")


def two_processes(folder, workdir, stack, **fields):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = ("tests/faults/two_processes.py",)
    return [stack.enter_context(Run(folder, workdir, program=(*program, index, port), **fields)) for index in range(2)]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_peer_that_dies(folder, undisturbed, table, victim):
    with ExitStack() as stack:
        runs = two_processes(folder, folder / f"peer {victim}", stack)
        assert runs[0].until_trained(4), runs[0].output()
        runs[victim].kill()
        began = time.monotonic()
        survivor = runs[1 - victim]
        status, took = survivor.status(60), time.monotonic() - began
        assert status in (69, 134), survivor.output()
        time.sleep(1)  # a separate process prints the line after this one has ended
        last = survivor.output().strip().splitlines()[-1]
        assert last.startswith(f"error: process {1 - victim} of 2 ended because another process died"), last
    table(f"process {victim} of 2 dies", 1, "", f"the other exits {status} after {took:.0f} s with one line")


def test_one_process_of_two_is_asked_to_stop(folder, undisturbed, table):
    workdir = folder / "preempted"
    with ExitStack() as stack:
        runs = two_processes(folder, workdir, stack)
        assert runs[0].until_trained(2), runs[0].output()
        runs[1].send(signal.SIGTERM)
        assert [run.status() for run in runs] == [75, 75], runs[0].output() + runs[1].output()
    said = [next(line for line in run.output().splitlines() if line.startswith("Stopped at step")) for run in runs]
    assert said[0] == said[1]
    assert f"step {checkpoint_steps(workdir)[-1]} with" in said[0]
    table("SIGTERM to process 1 of 2", 1, 0, "both save the same step and exit 75")


# Phase -> the processes that get SIGTERM in it, and whether process 0 is in it, from its run.
PHASES = {
    "starting": ([0, 1], lambda run: "of 2 processes" in run.output()),
    "compiling": ([1], lambda run: run.resumed_at() is not None),
    "training": ([0, 1], lambda run: run.resumed_at() is not None and logged_steps(run.workdir) > run.resumed_at()),
    "saving": ([1], lambda run: any((run.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))),
    "evaluating": ([0, 1], lambda run: "Evaluating on" in run.output()),
    "publishing": ([1], lambda run: "mIoU" in run.output()),
}


def finish_two(folder, workdir):
    with ExitStack() as stack:
        runs = two_processes(folder, workdir, stack, eval_every=2)
        assert [run.status() for run in runs] == [0, 0], runs[0].output() + runs[1].output()
    return final_state(workdir)[1]


def test_two_processes_stop_in_every_phase_and_resume_bit_for_bit(folder, undisturbed, table):
    workdir, ends = folder / "phases", []
    for phase, (asked, reached) in PHASES.items():
        with ExitStack() as stack:
            runs = two_processes(folder, workdir, stack, eval_every=2)
            assert runs[0].until(partial(reached, runs[0])), runs[0].output()
            for index in asked:
                runs[index].send(signal.SIGTERM)
            statuses = [run.status() for run in runs]
        output = f"{phase}: {statuses}\n{runs[0].output()}\n{runs[1].output()}"
        # Before its first step a process ends at once, and one that was not asked loses it.
        lost = phase == "compiling" and statuses[0] in (69, 134) and statuses[1] == 75
        assert statuses == [75, 75] or lost, output
        assert "Traceback" not in output, output
        ends.append(f"{phase} {statuses[0]} and {statuses[1]}")
    finish_two(folder, workdir)
    assert_as_uninterrupted(workdir, finish_two(folder, folder / "two undisturbed"))
    table("SIGTERM to 2 processes in every phase", len(PHASES), 0, f"exit {', '.join(ends)}; resumed bit for bit")
