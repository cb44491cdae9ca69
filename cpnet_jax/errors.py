"""Errors the user can fix. They are printed as one sentence, without a traceback."""

import lzma
import reprlib
import tarfile
import zipfile
import zlib
from typing import Any


class UserError(Exception):
    """A mistake in a config, a flag or the data.

    The message says which file or field, what is wrong, and what to do. `exit_status` is the process's exit status.
    """

    exit_status = 2


class TrainingDiverged(UserError):
    """A non-finite loss or gradient. The state before it is saved."""

    exit_status = 3


class WorkerDied(UserError):
    """A worker process of the input pipeline exited or was killed. Running the same command again continues."""

    exit_status = 4


class UnknownPart(UserError):
    """A config names a module or a loss term that is defined by a config file which is not loaded."""


class WriteFailed(UserError):
    """A checkpoint could not be written. Earlier checkpoints are intact."""


class Stopped(Exception):
    """Stopped by request with all steps saved. Running the same command again continues."""

    exit_status = 75  # EX_TEMPFAIL: try again


def quoted(value: Any) -> str:
    """Returns the repr of a user's value for a message; long, deep and huge ones are shortened."""
    return _SHORT.repr(value)


def shortened(text: str, most: int = 300) -> str:
    """Returns a text of at most `most` characters; of a longer one, the middle is left out."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlevel = 2

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out the digits of huge numbers.
        return str(x) if x.bit_length() < 256 else f"a number of {x.bit_length()} bits"


_SHORT = _Short()
# What libraries raise on files that lost bytes or hold wrong ones; their messages say nothing to a user.
DAMAGE = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def said(error: BaseException) -> str:
    """What an error says; in plain words if a file is damaged."""
    return "it is damaged or cut off" if isinstance(error, DAMAGE) else str(error)


def reason(error: Exception) -> str:
    """An error for use in a message: its first line, behind its type unless that says nothing."""
    # Messages of TensorStore and XLA have thousands of characters.
    line = (said(error).splitlines() or [""])[0][:200]
    speaks = type(error) in (UserError, ValueError) or isinstance(error, DAMAGE)
    return line if speaks else f"{type(error).__name__}: {line}"
