"""On a machine without network nothing is missing: each package is in the bundle, or there already."""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import bundle

ROOT = Path(__file__).parents[2]
OUR_OWN = {"benchmarks", "configs", "cpnet_jax", "parity", "torch_losses", "whole_program"}
# Not needed there: the demo's page, Cityscapes' downloads, and compilers for other chips.
OPTIONAL = {"gradio", "starlette", "uvicorn", "cityscapesscripts", "libtpu"}
BROUGHT_OR_THERE = {
    *bundle.packages(ROOT / "requirements.txt"),
    *bundle.packages(ROOT / "benchmarks" / "cuda_image.txt"),
}


def imported(file):
    """First words of all modules that a file imports, at its top or in functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def test_every_imported_package_is_brought_or_there():
    files = [path for name in ("benchmarks", "configs", "cpnet_jax") for path in (ROOT / name).rglob("*.py")]
    modules = {module for file in [ROOT / "main.py", *files] for module in imported(file)}
    modules -= {*sys.stdlib_module_names, *OUR_OWN, *OPTIONAL}
    distributions = metadata.packages_distributions()
    missing = {
        module
        for module in modules
        if not BROUGHT_OR_THERE & {canonicalize_name(name) for name in distributions.get(module, [module])}
    }
    assert {"jax", "grain", "cv2"} <= modules and not missing


def test_everything_that_the_packages_require_is_brought_or_there():
    environment = {"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""}
    missing = {}
    for package in bundle.packages(ROOT / "requirements.txt"):
        required = map(Requirement, metadata.requires(package) or ())
        needed = (one.name for one in required if not one.marker or one.marker.evaluate(environment))
        missing[package] = set(map(canonicalize_name, needed)) - BROUGHT_OR_THERE
    assert "grain" in missing and not any(missing.values())


# In place of Python: it installs nothing, and a measurement leaves a log and a compiled program of its --only.
PYTHON = """#!/bin/sh
[ "$1" != -m ] || exit 0
for argument in "$@"; do case $argument in
    --work=*) work=${argument#*=} ;;
    --only=*) item=${argument#*=} ;;
esac; done
mkdir -p "$work/logs" "$work/cache"
touch "$work/logs/$item" "$work/cache/$item"
"""


def members(archive):
    with tarfile.open(archive) as opened:
        return {Path(member.name).name for member in opened if member.isfile()}


def test_a_second_call_keeps_the_first_ones_report_and_its_compiled_programs(tmp_path):
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "bundle").mkdir()
    shutil.copy(ROOT / "benchmarks" / "run.sh", tmp_path / "bundle")
    results, environment = tmp_path / "results", os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for item in ("right", "step"):
        command = [tmp_path / "bundle" / "run.sh", results, f"--only={item}"]
        ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert not ended.stderr
    found = {path.name: members(path) for path in results.iterdir()}
    assert found == {"report_1.tar.gz": {"right"}, "report_2.tar.gz": {"step"}, "cache.tar.gz": {"right", "step"}}
    (results / "cache.tar.gz").write_bytes(b"damaged")
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "cache.tar.gz is damaged" in ended.stderr and members(results / "cache.tar.gz") == {"step"}
