"""Paths that are too long, hold line breaks or bytes that are no characters get one sentence, or work."""

import os
import subprocess
import sys
from pathlib import Path

import forked_program
import pytest

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files

ROOT = Path(__file__).parents[2]
LONG = "w" * 300
NO_UTF_8 = os.fsdecode(b"\xff")
CONFIG = "--config=configs/folder.py"
MISTAKES = {
    "a long workdir": (["--mode=export", f"--workdir={LONG}"], "File name too long"),
    "long names of images": (["--mode=predict", "--workdir=.", f"--images={LONG}.png"], "File name too long"),
    "a long config": ([f"--config={LONG}.py"], "File name too long"),
    "a line break": (["--mode=export", "--workdir=a\nb"], r"a\nb does not exist"),
    "a workdir that is not UTF-8": ([CONFIG, f"--workdir={NO_UTF_8}"], "--workdir is"),
    "a config.name that is not UTF-8": ([CONFIG, f"--config.name={NO_UTF_8}"], "--workdir is"),
    "data that are no text": (["--mode=prepare", CONFIG, f"--config.data.dir={NO_UTF_8}"], "config.data.dir is"),
}


@pytest.fixture(scope="module")
def results():
    runs = forked_program.run_all([arguments for arguments, _ in MISTAKES.values()], dict(os.environ))
    return dict(zip(MISTAKES, runs, strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_path_that_cannot_work_gets_one_sentence_and_exit_2(results, mistake):
    assert results[mistake].returncode == 2, results[mistake].stderr
    [line] = results[mistake].stderr.splitlines()
    assert line.startswith("error: ") and MISTAKES[mistake][1] in line


def test_text_in_a_locale_without_it_is_told_from_bytes_that_are_no_text():
    """Surrogates stand for the bytes that the locale cannot decode, here those of UTF-8."""
    files.check_is_unicode(Path("天空"), "--workdir")
    with pytest.raises(UserError, match="set PYTHONUTF8=1"):
        files.check_is_unicode(Path(os.fsencode("天空").decode("ascii", "surrogateescape")), "--workdir")
    with pytest.raises(UserError, match="name another folder"):
        files.check_is_unicode(Path(NO_UTF_8), "--workdir")


@pytest.mark.parametrize("name", ["run [1]", "lr=*", "gs://bucket/what?"])
def test_a_path_that_looks_like_a_pattern_is_told_from_others(name):
    files.check_is_no_pattern(Path("a folder {1} of ~me"), "--workdir")
    with pytest.raises(UserError, match=r"--workdir is .*, whose full name has"):
        files.check_is_no_pattern(Path(name), "--workdir")


def test_a_current_folder_that_was_removed_gets_one_sentence_and_exit_2(tmp_path):
    program = f'"{sys.executable}" "{ROOT}/main.py" --mode=export --workdir=run'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f'rmdir "$PWD" && {program}'
    result = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: the current folder cannot be found"), result
