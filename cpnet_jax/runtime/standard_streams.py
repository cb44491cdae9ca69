"""Makes standard input, output and error usable however the program was started, and whatever it prints."""

import io
import os
import re
import sys
from typing import TextIO

# Characters that terminals obey instead of showing them, or that reorder the rest of a line.
_OBEYED = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_ANYWHERE = re.compile(rf"[{_OBEYED}]")
_IN_A_LINE = re.compile(rf"[{_OBEYED}\t\n]")
# Only whole calls of print start such a line.
_FORGED = re.compile(r"\n(?=\s*(error|warning|Note|Skipped):)")
# What progress bars write to return to their line.
_TO_THE_LIVE_LINE = re.compile(r"\r|(\x1b\[A)+\Z")


def make_usable() -> None:
    """Opens the standard streams that are closed, and makes printing safe for every character.

    Call it before other files are opened: they would get the number of a closed stream, and with it what libraries
    print there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if not _is_open(number):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout, sys.stderr = _escaping(sys.stdout), _escaping(sys.stderr)


def printable(text: str) -> str:
    """Returns a text with escapes such as \\x1b for the characters that terminals and browsers obey."""
    return _ANYWHERE.sub(_escape, text)


def one_line(text: str) -> str:
    """Returns a text as one line: `printable`, and with escapes for tabs and line breaks."""
    return _IN_A_LINE.sub(_escape, text)


class _EscapingStream(io.TextIOWrapper):
    """A stream that shows the control characters of file names, class names and messages as escapes."""

    def write(self, text: str, /) -> int:
        live = _TO_THE_LIVE_LINE.match(text)
        start = live.end() if live else 0
        super().write(text[:start] + _FORGED.sub(r"\\n", printable(text[start:])))
        return len(text)


def _escaping(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # A name that the terminal's encoding lacks is printed as \u escapes.
    return _EscapingStream(
        open(stream.fileno(), "wb", closefd=False),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
    )


def _escape(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode()


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
