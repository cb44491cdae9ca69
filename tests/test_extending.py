"""docs/extending.md does what it says: its module is put into a copy of the program, as the page tells, and trained."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
CONTEXTS = Path("cpnet_jax", "models", "contexts")
# The ordinary way from flags to steps, without data: one device, a batch of noise.
TRAIN = """
import jax, numpy as np
from absl import app
from cpnet_jax import sharding
from cpnet_jax.config import build, command_line
from cpnet_jax.config.check import check_config
import main

def train(_):
    config = main.CONFIG.value
    check_config(config)
    mesh = sharding.make_mesh()
    state = jax.jit(build.make_create_state(config), out_shardings=sharding.replicated(mesh))()
    before = jax.device_get(state.params)
    step = build.make_train_step(config, mesh)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    batch = sharding.to_devices(mesh, {"image": images, "label": images[..., 0] % 5})
    for _ in range(2):
        state, metrics = step(state, batch)
        assert np.isfinite(metrics["loss"]), metrics
    moved = jax.tree.map(lambda old, new: bool(np.any(old != new)), before, jax.device_get(state.params))
    assert jax.tree.all(moved["context_module"]), moved["context_module"]
    assert moved["context"]["reduce"]["conv"]["kernel"], "where the context prior takes its features in"
    print(*sorted(moved["context_module"]))

app.run(train, flags_parser=lambda argv: command_line.parse(argv, without_config=set()))
"""
SMALL = {
    "data.crop_size": "(32,48)",
    "data.num_classes": 5,
    "batch_size": 2,
    "model.channels": 8,
    "model.aux_channels": 0,
}


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the program with the module and its line."""
    copy = tmp_path_factory.mktemp("extended")
    for part in ("cpnet_jax", "configs"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", copy)
    (copy / CONTEXTS / "strip_pooling.py").write_text(block("python"))
    lines = block("diff").splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[:1] in kept) for kept in (("", " "), ("", " ", "+")))
    table = copy / CONTEXTS / "__init__.py"
    assert table.read_text().count(before) == 1, "the page shows the table as it is"
    table.write_text(table.read_text().replace(before, after))
    return copy


def test_the_pages_module_trains_by_the_pages_command(extended):
    """By the second of them: it has the context prior, too."""
    _, command = re.findall(r"^    python main\.py (.*context=strip_pooling.*)$", PAGE, re.MULTILINE)
    fields = [f"--config.{field}={value}" for field, value in SMALL.items()]
    flags = "--xla_backend_optimization_level=0"  # code that runs twice need not be optimised
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(extended)}
    result = subprocess.run(
        [sys.executable, "-c", TRAIN, *command.split(), *fields],
        cwd=extended,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["columns", "gate", "reduce", "rows"]


def test_the_pages_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
