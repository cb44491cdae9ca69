"""The modules of docs/extending.md, added to a copy of the program as the page says, train."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
MODELS = Path("cpnet_jax", "models")
# (section of the page, file to write, table to add a line to)
EXTENSIONS = (
    ("A context module", MODELS / "contexts" / "strip_pooling.py", MODELS / "contexts" / "__init__.py"),
    ("A backbone", MODELS / "plain.py", MODELS / "backbones.py"),
)
# From flags to two training steps on a batch of noise, as training does it.
TRAIN = """
import jax, numpy as np
from absl import app
from cpnet_jax import sharding
from cpnet_jax.config import build, command_line
from cpnet_jax.config.check import check_config
from cpnet_jax.modes import flags

def train(_):
    config = flags.CONFIG.value
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
    assert jax.tree.all(moved["context_module"]) and jax.tree.all(moved["backbone"]), moved
    assert moved["context"]["reduce"]["conv"]["kernel"], "the context prior sees the module's features"
    print(*sorted(moved["context_module"]), *sorted(moved["backbone"]))

app.run(train, flags_parser=command_line.parse)
"""
SMALL = {
    "data.crop_size": "(32,48)",
    "data.num_classes": 5,
    "batch_size": 2,
    "model.channels": 8,
    "model.aux_channels": 4,
}


def block(section, language):
    """The only code block of this language in a section of the page."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the program with the page's files and lines."""
    copy = tmp_path_factory.mktemp("extended")
    for part in ("cpnet_jax", "configs"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", copy)
    for section, file, table in EXTENSIONS:
        assert f"`{file}`" in PAGE and f"`{table}`" in PAGE
        (copy / file).write_text(block(section, "python"))
        lines = block(section, "diff").splitlines()
        before, after = (
            "\n".join(line[1:] for line in lines if line[:1] in kept) for kept in (("", " "), ("", " ", "+"))
        )
        text = (copy / table).read_text()
        assert text.count(before) == 1, f"the page shows {table} as it is"
        (copy / table).write_text(text.replace(before, after))
    return copy


def test_the_pages_modules_train_by_the_pages_commands(extended):
    """Both at once: the second command for the context, which keeps the context prior, and the backbone's flag."""
    _, command = re.findall(r"^    python main\.py (.*context=strip_pooling.*)$", PAGE, re.MULTILINE)
    (backbone,) = re.findall(
        r"^    python main\.py --config=configs/quickstart\.py (.*backbone=.*)$", PAGE, re.MULTILINE
    )
    fields = [f"--config.{field}={value}" for field, value in SMALL.items()]
    flags = "--xla_backend_optimization_level=0"  # code that runs twice need not be optimised
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(extended)}
    result = subprocess.run(
        [sys.executable, "-c", TRAIN, *command.split(), backbone, *fields],
        cwd=extended,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    convolutions = [f"conv{number}" for number in range(1, 6)]
    assert result.stdout.split() == ["columns", "gate", "reduce", "rows", *convolutions]


def test_the_pages_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
