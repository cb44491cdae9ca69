"""A run that was stopped, killed and started twice has the result of an uninterrupted one."""

import os
import signal

import pytest
from faults.tiny_run import STEPS, Run, assert_as_uninterrupted, checkpoint_steps


def test_a_stopped_killed_and_resumed_run_equals_an_uninterrupted_one(folder, undisturbed):
    workdir = folder / "stopped"
    with Run(folder, workdir) as first:
        assert first.until_trained(1), first.output()
        first.send(signal.SIGSTOP)  # so that it does not finish meanwhile
        with Run(folder, workdir) as second:
            assert second.status() == 2, second.output()
        [line] = second.errors()
        assert f"{workdir} is in use by another run, process {first.process.pid} on {os.uname().nodename}" in line

    # Its lock ended with the process.
    with Run(folder, workdir) as third:
        assert third.until_trained(2), third.output()
        third.send(signal.SIGTERM)
        assert third.status() == 75, third.output()
    assert "SIGTERM: stopping after this step" in third.output() and not third.errors()
    [stopped_at] = [step for step in range(STEPS) if f"Stopped at step {step} with all steps saved" in third.output()]
    assert checkpoint_steps(workdir)[-1] == stopped_at

    # Killed while it writes a checkpoint.
    with Run(folder, workdir) as fourth:
        assert fourth.until(lambda: any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")))
        fourth.kill()
    assert fourth.resumed_at() == stopped_at

    with Run(folder, workdir) as last:
        assert last.status() == 0, last.output()
    assert_as_uninterrupted(workdir, undisturbed)


def test_a_second_ctrl_c_stops_at_once_without_a_traceback(folder, undisturbed):
    with Run(folder, folder / "interrupted") as run:
        assert run.until_trained(2), run.output()
        run.send(signal.SIGINT)
        assert run.until(lambda: "SIGINT: stopping after this step" in run.output())
        run.send(signal.SIGINT)
        assert run.status() in (130, 75), run.output()
    assert "Traceback" not in run.output()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_standard_output_on_a_full_disk_is_reported_in_one_line(folder, undisturbed):
    with open("/dev/full", "w") as full, Run(folder, folder / "full", stdout=full) as run:
        assert run.status() == 2, run.output()
    [line] = run.errors()
    assert "standard output or a file cannot be written" in line and "No space left on device" in line
    assert "Traceback" not in run.output() and "Exception ignored" not in run.output()
