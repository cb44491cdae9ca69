"""Names for users and groups that the system does not know, as in containers with an arbitrary user id."""

import grp
import os
import pwd
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def name_by_number() -> None:
    """From now on, an unknown user or group has its number as name, and / as home, as in container runtimes.

    etils asks for the owner of every file whose size TFDS or Orbax wants, and would raise KeyError.
    """
    pwd.getpwuid = _with_default(pwd.getpwuid, _user)
    grp.getgrgid = _with_default(grp.getgrgid, _group)


def _with_default(find: Callable[[int], T], default: Callable[[int], T]) -> Any:
    def find_or_default(number: int) -> T:
        try:
            return find(number)
        except KeyError:
            return default(number)

    return find_or_default


def _user(number: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((str(number), "x", number, os.getgid(), "", "/", "/bin/sh"))


def _group(number: int) -> grp.struct_group:
    return grp.struct_group((str(number), "x", number, []))
