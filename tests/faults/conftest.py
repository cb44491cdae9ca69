"""A prepared data set, a compilation cache that is filled, and what an undisturbed run comes to."""

import pytest
from faults.tiny_run import Run, final_state, prepared


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def undisturbed(folder):
    """(its final state, the seconds it took from start to end with a warm cache)."""
    for name in ("cold", "undisturbed"):
        with Run(folder, folder / name) as run:
            assert run.status() == 0, run.output()
            if name == "undisturbed":
                return final_state(run.workdir)[1]


