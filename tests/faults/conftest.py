"""Fixtures: prepared data with a filled compilation cache, and the result of an uninterrupted run."""

import signal

import pytest
from faults.tiny_run import Run, final_state
from whole_program import write_camvid


@pytest.fixture(scope="session", autouse=True)
def signals_are_handled():
    """Handles SIGINT and SIGHUP: tests in the background or under nohup ignore them, and the program inherits that."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    write_camvid(root / "camvid")
    return root


@pytest.fixture(scope="session")
def undisturbed(folder):
    """Final state of an uninterrupted run."""
    with Run(folder, folder / "undisturbed") as run:
        assert run.status() == 0, run.output()
    return final_state(run.workdir)[1]
