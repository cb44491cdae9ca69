"""An installed wheel is the whole program: `cpnet` works where no clone is."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import cpnet_jax
from cpnet_jax.config import renamed

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy: setuptools writes into the folder that it builds."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("cpnet_jax", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "main.py"):
        shutil.copy(ROOT / name, copy)
    pip("wheel", "--no-build-isolation", f"--wheel-dir={copy / 'dist'}", copy)
    [path] = (copy / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    pip("install", f"--target={folder}", wheel)
    return folder


def pip(command, *arguments):
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", command, *quiet, *map(str, arguments)], check=True)


@pytest.fixture
def cpnet(installed, tmp_path):
    """Runs `cpnet` in an empty folder; the wheel and its dependencies can be imported, the clone cannot."""

    def run(*arguments, program=(str(installed / "bin" / "cpnet"),), **variables):
        # -S: without the .pth files of site-packages, one of which adds the clone.
        path = [str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
        environment = {
            "PATH": "",
            "HOME": str(tmp_path),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ":".join(path),
            **variables,
        }
        command = [sys.executable, "-S", *program, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def tracked(folder, pattern):
    return {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob(pattern)}


def test_the_wheel_holds_the_package_the_experiments_the_page_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        [info] = {name.split("/")[0] for name in held if ".dist-info/" in name}
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
        commands = archive.read(f"{info}/entry_points.txt").decode()
    wanted = {f"cpnet_jax/{name}" for name in tracked("cpnet_jax", "*.py")}
    wanted |= {f"cpnet_jax/_configs/{name}" for name in tracked("configs", "*.py")}
    template = "evaluation/report/template"
    wanted |= {f"cpnet_jax/{template}/{name}" for name in tracked(f"cpnet_jax/{template}", "*.*")}
    assert {name for name in held if not name.startswith(info)} == wanted
    assert licence == (ROOT / "LICENSE").read_text() and licence.rstrip().endswith("limitations under the License.")
    assert "License-Expression: Apache-2.0" in metadata
    assert "cpnet = cpnet_jax.modes.program:run" in commands


def test_the_installed_command_needs_no_clone(cpnet, installed):
    code = """
import sys
from cpnet_jax.config import experiments
from cpnet_jax.modes import program

experiments.default()
ours = [module for name, module in sys.modules.items() if name.startswith(("cpnet_jax", "configs."))]
print(*(module.__file__ for module in ours), sep="\\n")
"""
    result = cpnet(program=("-c", code))
    assert result.returncode == 0, result.stderr
    assert [path for path in result.stdout.split() if path.endswith("configs/default.py")]
    assert not [path for path in result.stdout.split() if not Path(path).is_relative_to(installed)]


def test_the_installed_command_explains_itself(cpnet):
    result = cpnet("--help")
    assert result.returncode == 0, result.stderr
    assert "--config" in result.stdout and "_configs/default.py" in result.stdout


@pytest.mark.parametrize("name", ["quickstart", "configs/quickstart.py"])
def test_the_installed_command_finds_experiments(cpnet, name):
    result = cpnet(f"--config={name}", "--config.dat.name=x")
    assert result.returncode == 2 and "error: config.dat.name does not exist" in result.stderr


def write_streets(folder):
    """The dataset of docs/extending.md: classes are patches of one brightness each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        for index in range(count):
            label = rng.integers(0, 4, (5, 7)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            for kind, pixels in (("images/{}.jpg", 60 * label), ("labels/{}.png", label)):
                path = folder / kind.format(f"{split}/{index}")
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)


def test_the_installed_command_trains_with_all_parts_that_a_config_file_can_add(cpnet, tmp_path):
    """The code blocks of docs/extending.md are the file. Worker processes cannot import it."""
    fields, *parts = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.M | re.S)
    (tmp_path / "my_experiment.py").write_text("\n".join([*parts, fields]))
    write_streets(tmp_path / "streets")
    small = {
        "data.crop_size": "(32,48)",
        "batch_size": 2,
        "total_steps": 2,
        "model.channels": 8,
        "model.aux_channels": 4,
        "model.plain.width": 4,
        "system.compilation_cache": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "system.log_every": 1,
        "system.workers": 1,
        "eval.pictures": 0,
    }
    result = cpnet(
        "--config=my_experiment.py",
        "--config.data.source=streets",
        *(f"--config.{name}={value}" for name, value in small.items()),
        XLA_FLAGS="--xla_backend_optimization_level=0",  # code that runs twice need not be optimised
    )
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "my_experiment"
    evaluation = json.loads((run / "eval.json").read_text())
    assert list(evaluation["per_class"]) == ["road", "car", "tree"] and 0 <= evaluation["worst_IoU"] <= 1
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < step["dice"] < 1 for step in steps if "loss" in step)


def test_an_unknown_experiment_is_answered_with_all_names(cpnet):
    result = cpnet("--config=nowhere")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "--config=nowhere does not exist" in result.stderr and "ade20k, camvid, cityscapes" in result.stderr


def test_pre_commit_runs_the_ruff_of_make_lint():
    [required] = re.findall(r"^ruff==(.*)$", (ROOT / "requirements-test.txt").read_text(), re.MULTILINE)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"ruff-pre-commit\n\s+rev: v(.*)$", hooks, re.MULTILINE) == [required]


def test_the_citation_and_the_package_have_the_same_version():
    assert f"\nversion: {cpnet_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_lists_every_old_field():
    rows = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert {f"| `{old}` | `{new}` |" for old, new in renamed.MOVED.items()} <= set(rows)
    assert all(any(row.startswith(f"| `{old}` |") for row in rows) for old in renamed.DELETED)


def test_new_modules_of_the_changelog_exist():
    text = (ROOT / "CHANGELOG.md").read_text()
    table = text.partition("| old module in `cpnet_jax` | new module |")[2].partition("\n\n")[0]
    for module in re.findall(r"`([\w.]+)`", "".join(row.split("|")[2] for row in table.splitlines()[2:])):
        assert (ROOT / "cpnet_jax" / f"{module.replace('.', '/')}.py").is_file(), module
