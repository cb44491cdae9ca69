"""The table of modes: each row can be run and appears in --help, and a new mode is one file and one row."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver

from cpnet_jax import modes
from cpnet_jax.errors import UserError
from cpnet_jax.modes import MODES, flags
from cpnet_jax.modes.usage import WIDTH, usage
from cpnet_jax.runtime.exit_status import MEANINGS

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "extending.md").read_text().partition("## A mode\n")[2].partition("\n## ")[0]
FILES = {"eval": "evaluate"}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_has_a_file_with_a_function_run(name):
    assert callable(import_module(f"cpnet_jax.modes.{FILES.get(name, name)}").run)


def test_help_names_every_mode_flag_and_exit_status_in_lines_that_fit():
    text = usage()
    names = {*MODES, *MEANINGS, *(f"--{flag.name}" for mode in MODES.values() for flag in mode.flags)}
    assert [name for name in names if not re.search(rf"^ +{re.escape(name)} +\S", text, re.MULTILINE)] == []
    assert max(map(len, text.splitlines())) <= WIDTH + 4


def test_every_flag_of_the_program_is_read_by_some_mode():
    read = {flag.name for mode in MODES.values() for flag in mode.flags}
    read |= {flag.name for flag in (*flags.OF_EVERY_MODE, *flags.OF_SEVERAL_PROCESSES)}
    defined = {flag.name for flag in absl_flags.FLAGS.get_flags_for_module(flags.__name__)}
    assert defined - {name for name in defined if name.startswith("config")} == read - {"config"}


@pytest.mark.parametrize("name", MODES)
def test_a_flag_that_a_mode_does_not_read_is_refused(name):
    values = {"submission": "ade20k", "weights_order": "rgb", "port": "7861"}  # of the others, true is a value
    read = {flag.name for flag in MODES[name].flags}
    for flag in {flag.name for mode in MODES.values() for flag in mode.flags}:
        with flagsaver.flagsaver():
            absl_flags.FLAGS(["main.py", f"--{flag}={values.get(flag, 'true')}"])
            if flag in read:
                assert modes.find(name) is MODES[name]
                continue
            with pytest.raises(UserError, match=f"--{flag} is given with --mode={name}, which does not read it"):
                modes.find(name)


def test_help_loads_no_jax():
    code = "import sys; from cpnet_jax.modes.usage import usage; usage(); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_pages_mode_is_one_file_and_one_row(tmp_path):
    assert find_spec("cpnet_jax.modes.count") is None
    for part in ("cpnet_jax", "configs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", tmp_path)
    file, row = (
        textwrap.dedent(block).strip("\n") for block in re.findall(r"(?:^    .*\n|^\n(?=    |\n    ))+", SECTION, re.M)
    )
    (tmp_path / "cpnet_jax" / "modes" / "count.py").write_text(file)
    table = tmp_path / "cpnet_jax" / "modes" / "__init__.py"
    text = table.read_text()
    assert text.count("MODES = {\n") == 1
    table.write_text(text.replace("MODES = {\n", f"MODES = {{\n    {row}\n"))
    assert run(tmp_path, "--mode=count", "--config=configs/quickstart.py").isdecimal()
    assert "Print the number of parameters of a network. Needs --config, or a run in" in run(tmp_path, "--help")


def run(folder, *arguments):
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "main.py", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
