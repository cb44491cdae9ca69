"""Programs run under a user id without a name, as in containers."""

import getpass
import grp
import os
import pwd
from pathlib import Path

import pytest
from etils import epath

from cpnet_jax.runtime import files, unknown_users


@pytest.fixture
def nameless(monkeypatch):
    """A system that knows no user and no group."""

    def unknown(number):
        raise KeyError(f"uid not found: {number}")

    for module, name in ((pwd, "getpwuid"), (grp, "getgrgid")):
        monkeypatch.setattr(module, name, unknown)
    for variable in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)


def test_the_size_of_a_local_file_needs_no_owner(nameless, tmp_path):
    (tmp_path / "file").write_bytes(b"four")
    assert files.size(tmp_path / "file") == 4


def test_libraries_find_a_name_and_a_home_of_unknown_users(nameless, tmp_path):
    (tmp_path / "file").write_bytes(b"four")
    unknown_users.name_by_number()
    assert getpass.getuser() == str(os.getuid())
    assert epath.Path(tmp_path / "file").stat().length == 4
    assert Path("~/cache").expanduser() == Path("/cache")


def test_known_users_keep_their_names(monkeypatch):
    known = pwd.getpwuid(0)
    for module, name in ((pwd, "getpwuid"), (grp, "getgrgid")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back after the test
    unknown_users.name_by_number()
    assert pwd.getpwuid(0) == known
