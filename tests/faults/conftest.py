"""Prepared data, a compilation cache that is filled, and what an undisturbed run comes to."""

import signal

import pytest
from faults.tiny_run import Run, final_state
from whole_program import write_camvid


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """Where the tests run in the background it is ignored, and the program would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    write_camvid(root / "camvid")
    return root


@pytest.fixture(scope="session")
def undisturbed(folder):
    """The final state of a run from its beginning to its end."""
    with Run(folder, folder / "undisturbed") as run:
        assert run.status() == 0, run.output()
    return final_state(run.workdir)[1]
