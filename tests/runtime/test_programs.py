"""Stored programs are loaded without tracing, and whatever is wrong with the files, the program is compiled."""

import os
import random
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax import sharding
from cpnet_jax.runtime import background, programs
from cpnet_jax.runtime.programs import Programs

EVERYWHERE = sharding.replicated(sharding.make_mesh())
SHAPE = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=EVERYWHERE)
X = np.arange(3, dtype=np.float32)


class Make:
    """Returns a program that doubles, and counts how often it is asked for. JAX's own cache does not know it yet."""

    def __init__(self, factor=2.0):
        self.calls, self.factor, self.unique = 0, factor, random.random()

    def __call__(self):
        self.calls += 1
        return jax.jit(lambda x: self.factor * x + jnp.where(x > 1e9, self.unique, 0)), (SHAPE,)


def stored(folder):
    return list((folder / "programs").iterdir())


@pytest.fixture
def first(tmp_path):
    make = Make()
    Programs(str(tmp_path), {"lr": 1}).get("twice", make)
    assert make.calls == 1
    return tmp_path


def test_a_second_start_neither_traces_nor_compiles_and_computes_the_same(first):
    make = Make(factor=7.0)  # would compute something else
    np.testing.assert_array_equal(Programs(str(first), {"lr": 1}).get("twice", make)(X), 2 * X)
    assert make.calls == 0


def test_a_program_is_made_once_in_a_process_whether_it_was_started_or_not(tmp_path):
    make, kept = Make(), Programs("", {})
    kept.start("twice", make)
    assert kept.get("twice", make) is kept.get("twice", make)
    assert kept.get("other", make) is kept.get("other", make)
    assert make.calls == 2


@pytest.mark.parametrize("started", [True, False])
def test_a_program_that_failed_to_compile_fails_again(started):
    def fail():
        raise ValueError("shapes do not match")

    kept = Programs("", {})
    if started:
        kept.start("broken", fail)
    for _ in range(2):
        asked = background.run(lambda: kept.get("broken", fail))
        with pytest.raises(ValueError, match="shapes do not match"):
            asked.result(60)


@pytest.mark.parametrize("change", ["config", "name", "user's module", "environment", "jax option", "processor"])
def test_whatever_a_program_may_depend_on_is_part_of_its_key(first, monkeypatch, change):
    config, name, make = {"lr": 1}, "twice", Make()
    if change == "config":
        config = {"lr": 2}
    elif change == "name":
        name = "thrice"
    elif change == "user's module":
        (first / "mine.py").write_text("WIDTH = 3")
        monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(__file__=str(first / "mine.py")))
        programs._source.cache_clear()
    elif change == "environment":
        monkeypatch.setenv("LIBTPU_INIT_ARGS", "--changed")
    elif change == "processor":
        monkeypatch.setattr(programs, "_cpu", lambda: "another")
    elif change == "jax option":
        jax.config.update("jax_default_matmul_precision", "highest")
    try:
        Programs(str(first), config).get(name, make)
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    assert make.calls == 1


def test_two_arm_processors_are_told_apart(monkeypatch):
    """Their /proc/cpuinfo has neither a model's name nor flags."""
    text = "processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\nCPU part : {}\n"
    found = set()
    for part in ("0xd0c", "0xd40"):
        monkeypatch.setattr(programs.Path, "read_text", lambda *_, part=part, **__: text.format(part))
        found.add(programs._cpu())
    assert len(found) == 2 and "" not in found


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "not a program"])
def test_a_damaged_file_is_replaced_by_a_sound_one(first, damage):
    [path] = stored(first)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"empty": b"", "cut": content[:100], "not a program": b"\n" + b"x" * 99}.get(damage, content))
    make = Make()
    np.testing.assert_array_equal(Programs(str(first), {"lr": 1}).get("twice", make)(X), 2 * X)
    assert make.calls == 1
    Programs(str(first), {"lr": 1}).get("twice", again := Make())
    assert again.calls == 0


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "programs").write_text("a file where the folder should be")
    np.testing.assert_array_equal(Programs(str(tmp_path), {}).get("twice", Make())(X), 2 * X)


def test_a_program_that_cannot_be_stored_runs(tmp_path):
    def make():
        return jax.jit(
            lambda x: jax.pure_callback(lambda x: 2 * np.asarray(x), jax.ShapeDtypeStruct((3,), jnp.float32), x)
        ), (SHAPE,)

    np.testing.assert_array_equal(Programs(str(tmp_path), {}).get("called back", make)(X), 2 * X)


def test_a_program_that_jax_found_in_its_own_cache_is_not_stored(first):
    """XLA for CPUs would store it without some of its functions, and fail when it runs."""
    make = Make()
    for config, files in (({"lr": 2}, 2), ({"lr": 3}, 2)):
        np.testing.assert_array_equal(Programs(str(first), config).get("twice", make)(X), 2 * X)
        assert len(stored(first)) == files
    assert make.calls == 2


def test_a_program_for_some_of_the_devices_is_not_stored(tmp_path):
    def make():
        return jax.jit(lambda x: 2 * x), (jax.ShapeDtypeStruct((3,), jnp.float32),)

    for _ in range(2):
        np.testing.assert_array_equal(Programs(str(tmp_path), {}).get("one device", make)(X), 2 * X)
    assert not (tmp_path / "programs").exists()


@pytest.mark.parametrize("folder", ["", "gs://bucket/cache"])
def test_without_a_local_folder_nothing_is_stored(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    Programs(folder, {}).get("twice", Make())
    assert not list(tmp_path.rglob("*"))


def test_the_least_recently_used_programs_make_room(first, monkeypatch):
    [oldest] = stored(first)
    os.utime(oldest, (0, 0))
    Programs(str(first), {"lr": 2}).get("twice", Make())
    Programs(str(first), {"lr": 1}).get("twice", Make())  # used again
    os.utime(next(path for path in stored(first) if path != oldest), (1, 1))
    monkeypatch.setattr(programs, "MOST_BYTES", int(2.5 * oldest.stat().st_size))
    Programs(str(first), {"lr": 3}).get("twice", Make())
    assert len(stored(first)) == 2 and oldest in stored(first)


def test_what_tracing_raises_is_raised_to_whoever_asks():
    kept = Programs("", {})
    kept.start("broken", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kept.get("broken", Make())


@pytest.mark.parametrize(("raised", "status"), [("UserError('wrong: do that')", 2), ("KeyError('a defect')", 1)])
def test_an_error_ends_the_program_at_once_while_something_runs_in_the_background(raised, status):
    code = f"""
        import atexit, time
        from cpnet_jax.errors import UserError
        from cpnet_jax.runtime import background, exit_status

        def program():
            background.run(lambda: time.sleep(600))
            print("begun")
            atexit.register(print, "Python's shutdown, in which JAX crashes if it compiles")
            raise {raised}

        exit_status.run(program)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (status, "begun\n"), done.stderr
    assert done.stderr.startswith("Traceback" if status == 1 else "error: wrong: do that\n")


def test_background_work_is_busy_until_it_ends():
    future = background.run(lambda: 3)
    assert future.result() == 3
    while background.busy():
        pass
