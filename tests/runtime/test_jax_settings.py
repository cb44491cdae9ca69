"""Settings of JAX in the environment, made for other programs or mistaken, neither break nor change this one."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cpnet_jax.runtime import files, jax_settings

ROOT = Path(__file__).parents[2]
CONFIGURE = """
import json, sys
from cpnet_jax.modes.program import _import_jax
from cpnet_jax.runtime import exit_status

def program():
    _import_jax()
    from cpnet_jax.runtime import jax_settings
    jax_settings.configure("")
    import jax
    print(json.dumps([jax.devices()[0].platform, {name: jax.config.values[name] for name in jax_settings.REQUIRED}]))
    if "random" in sys.argv:
        started = jax.random.key_data(jax.random.split(jax.random.key(0)))
        resumed = jax.random.bits(jax.random.wrap_key_data(started[0]), 4)
        print(started.tolist(), resumed.tolist())

exit_status.run(program)
"""


def configure(*arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if name not in jax_settings.PLATFORM_VARIABLES}
    command = [sys.executable, "-c", CONFIGURE, *arguments]
    return subprocess.run(command, env={**inherited, **environment}, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("platforms", [" CPU", "cuda,cpu", ""])
def test_platforms_are_found_however_they_are_written(platforms):
    result = configure(JAX_PLATFORMS=platforms)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)[0] == "cpu"


RANDOM_NUMBERS = {
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "5",
}
MISTAKES = [{"JAX_PLATFORMS": platforms} for platforms in ("cuda", "gpu", ",")]
MISTAKES += [{"JAX_PLATFORM_NAME": "foo"}, {"JAX_ENABLE_X64": "maybe"}]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_gets_one_sentence_that_names_the_variable_and_exit_2(mistake):
    result = configure(**mistake)
    assert result.returncode == 2, result.stdout + result.stderr
    [line] = result.stderr.splitlines()
    [variable] = mistake
    assert line.startswith("error: ") and variable.lower() in line.lower()


def test_settings_that_would_change_what_is_computed_are_ignored_with_a_note():
    result = configure(
        JAX_ENABLE_X64="1",
        JAX_DISABLE_JIT="1",
        JAX_NUMPY_DTYPE_PROMOTION="strict",
        JAX_NUMPY_RANK_PROMOTION="raise",
        JAX_DEBUG_NANS="1",
        JAX_DEBUG_INFS="1",
        **RANDOM_NUMBERS,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)[1] == jax_settings.REQUIRED
    notes = result.stderr.splitlines()
    assert len(notes) == 9 and all(note.startswith("Note: JAX_") for note in notes)


def test_settings_of_random_numbers_change_neither_the_start_nor_a_resumed_run():
    usual, changed = configure("random", JAX_PLATFORMS="cpu"), configure("random", **RANDOM_NUMBERS)
    assert usual.returncode == changed.returncode == 0, usual.stderr + changed.stderr
    assert usual.stdout == changed.stdout


def test_a_required_setting_that_jax_no_longer_has_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(jax_settings, "REQUIRED", {"jax_dropped": True})
    jax_settings._require_settings()
    assert capsys.readouterr().err == ""


@pytest.fixture
def unwritable(tmp_path):
    """A folder that cannot be made, even by root."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "cache"


def test_a_cache_that_cannot_be_written_to_is_a_note(unwritable, capsys):
    assert not files.make_cache(unwritable, "config.system.compilation_cache")
    [note] = capsys.readouterr().err.splitlines()
    assert note.startswith(f"Note: config.system.compilation_cache is {unwritable}, which is not writable")


def test_without_a_writable_cache_programs_are_only_read(monkeypatch, unwritable, tmp_path):
    changed = {}
    monkeypatch.setattr(jax_settings.jax.config, "update", changed.__setitem__)
    jax_settings._keep_programs(unwritable)
    assert changed == {}, "there is nothing to read"
    monkeypatch.setattr(files, "make_cache", lambda folder, field: False)
    jax_settings._keep_programs(tmp_path)
    assert changed["jax_compilation_cache_dir"] == str(tmp_path)
    assert changed["jax_persistent_cache_min_compile_time_secs"] == float("inf")


def test_a_cache_that_jax_cannot_read_or_write_is_one_note(tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(message))
    jax_settings._note_cache_errors(tmp_path)
    for doing, error in (("writing", "OSError: [Errno 28] No space left on device"), ("reading", "error: Error -3")):
        text = f"Error {doing} persistent compilation cache entry for 'jit_step': {error}"
        warnings.showwarning(UserWarning(text), UserWarning, "compiler.py", 782)
    other = UserWarning("another one")
    warnings.showwarning(other, UserWarning, "x.py", 1)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Note: {tmp_path} ") and "No space left on device" in line and shown == [other]
