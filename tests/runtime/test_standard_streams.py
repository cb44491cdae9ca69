"""The program can print, and opens no file in place of a stream, however it was started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = "天空 道路 하늘 café \U0001f697 \udcff"
PRINT = f"""
import os, sys
from cpnet_jax.runtime import standard_streams
standard_streams.make_usable()
print({NAMES!a})
print({NAMES!a}, file=sys.stderr)
with open(os.devnull) as file:
    sys.exit(0 if file.fileno() > 2 else f"a file got the number {{file.fileno()}}")
"""


def run(redirection="", **environment):
    command = f"'{sys.executable}' -c \"$CODE\" $ARGUMENTS {redirection}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": PRINT, **environment}
    return subprocess.run(["sh", "-c", command], env=environment, capture_output=True)


@pytest.mark.parametrize(
    "locale",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=lambda locale: " ".join(f"{name}={value}" for name, value in locale.items()),
)
def test_characters_that_the_terminal_lacks_are_escaped(locale):
    result = run(**locale)
    assert result.returncode == 0, result.stderr
    for output in (result.stdout, result.stderr):
        assert rb"\u5929\u7a7a \u9053\u8def \ud558\ub298 caf" in output and rb"\U0001f697 \udcff" in output


def test_a_terminal_with_all_characters_shows_them():
    assert run(PYTHONIOENCODING="utf-8").stdout.decode() == NAMES.replace("\udcff", r"\udcff") + "\n"


# Clears the screen, colours, in C1 too, reorders, starts another line for some terminals.
HOSTILE = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202egpj.exe\u2069 \u200f \x7f \u2028"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_control_characters_are_shown_escaped(stream):
    code = "import sys; from cpnet_jax.runtime import standard_streams as s; s.make_usable()"
    result = run(CODE=f"{code}; print({HOSTILE!a}, 'a\\rb', 'c\\td', file=sys.{stream})", PYTHONIOENCODING="utf-8")
    shown = HOSTILE.encode("unicode_escape").decode()
    assert getattr(result, stream).decode() == f"{shown} a\\rb c\td\n"


@pytest.mark.parametrize("word", ["error", "Note", "warning", "Skipped"])
def test_a_name_cannot_forge_a_message(word):
    code = "from cpnet_jax.runtime import standard_streams; standard_streams.make_usable()"
    result = run(CODE=f"{code}; print('images of a\\n{word}: all is lost\\n are read')")
    assert result.stdout.decode() == f"images of a\\n{word}: all is lost\n are read\n"


def test_an_error_is_one_line_whatever_it_quotes():
    code = "from cpnet_jax.runtime import exit_status; from cpnet_jax.errors import UserError"
    result = run(CODE=f"{code}\ndef program(): raise UserError('a\\nerror: b' + {HOSTILE!a})\nexit_status.run(program)")
    assert result.returncode == 2
    assert result.stderr.decode() == "error: a\\nerror: b" + HOSTILE.encode("unicode_escape").decode() + "\n"


def test_progress_bars_can_return_to_their_line():
    code = "import sys; from tqdm import tqdm; from cpnet_jax.runtime import standard_streams as s; s.make_usable()"
    bars = "[next(iter(tqdm(range(2), position=p, file=sys.stderr, ascii=True))) for p in (0, 1)]"
    shown = run(CODE=f"{code}; {bars}").stderr.decode()
    assert "\r" in shown and "\x1b[A" in shown and "\\x1b" not in shown


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_opened_on_the_null_device(closed):
    result = run(closed)
    assert result.returncode == 0 and b"Traceback" not in result.stderr, result.stderr


def test_the_program_ends_as_usual_without_output():
    assert run(">&-", CODE="from cpnet_jax.modes.program import run; run()", ARGUMENTS="--help").returncode == 0
