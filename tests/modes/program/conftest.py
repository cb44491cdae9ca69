"""A dataset for the runs of a module."""

import pytest
from whole_program import write_camvid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("main")
    write_camvid(root / "camvid")
    return root
