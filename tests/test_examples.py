"""The examples of the losses in other models run as they are, and learn."""

import re
import runpy
from pathlib import Path

import jax
import pytest
from flax import nnx

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.usefixtures("quick_compilation")


def run(name, capsys):
    """The variables of an example that ran, whose loss fell to less than half."""
    variables = runpy.run_path(str(EXAMPLES / f"affinity_loss_{name}.py"))
    first, *_, last = (float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out))
    assert last < first / 2
    return variables


def test_plain_functions_learn(capsys):
    run("plain", capsys)


def test_a_linen_model_learns_and_keeps_batch_statistics(capsys):
    variables = run("linen", capsys)
    assert_moved(variables["batch_stats"]["context"])


def test_an_nnx_model_learns_and_keeps_batch_statistics(capsys):
    assert_moved(nnx.state(run("nnx", capsys)["network"].context, nnx.BatchStat))


def assert_moved(statistics):
    """Every mean started from 0."""
    means = [x for path, x in jax.tree.leaves_with_path(statistics) if "mean" in jax.tree_util.keystr(path)]
    assert len(means) == 5 and all((mean != 0).any() for mean in means)
