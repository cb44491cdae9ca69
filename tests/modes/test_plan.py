"""--mode=plan as a whole: a small network compiled for real where libtpu is installed, and the mistakes people make."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from plan.steps import compiled

from configs import ade20k
from cpnet_jax.errors import UserError
from cpnet_jax.modes.plan import plan
from cpnet_jax.plan import compiler, topologies
from cpnet_jax.plan.compiler import Compiler
from cpnet_jax.plan.figures import Figures

ROOT = Path(__file__).parents[2]
SLICE = topologies.parse("v5e:2x2")
WITH_LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the compiler for TPUs, is not installed (extra `tpu`)"
)


def small():
    config = ade20k.get_config()
    config.data.crop_size = (64, 64)
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 16, 8
    return config


@pytest.fixture
def installed(monkeypatch):
    """As if libtpu were installed; compiling is not possible then."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    version = compiler.importlib.metadata.version
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda name: "0" if name == "libtpu" else version(name))


@pytest.fixture(scope="module")
def small_step(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    return folder, Compiler(small(), SLICE, folder).compile(2)


@WITH_LIBTPU
def test_a_small_network_compiles_for_chips_that_are_not_there(small_step):
    step = small_step[1]
    figures = Figures(SLICE.chip, step)
    # An 18-layer backbone of 11 million parameters and small heads, in float32, with their momentum.
    assert step.fits and 44e6 < step.state["params"] < 47e6
    assert 0 <= step.state["opt_state"] - step.state["params"] <= 8
    assert step.state["params"] * 2 < step.total < 1e9
    assert sum(figures.memory().values()) == step.total
    assert 0 < figures.of_peak(SLICE.chips) < 0.5


@WITH_LIBTPU
def test_the_compiled_step_exchanges_nothing_but_gradients_statistics_and_scalars(small_step):
    figures = Figures(SLICE.chip, small_step[1])
    assert all(group.expected for group in figures.traffic), figures.traffic
    sizes = {group.content: group.bytes for group in figures.traffic}
    # Kernels travel in bfloat16, the type of the activations.
    assert 0.45 < sizes["gradients"] / small_step[1].state["params"] < 0.6
    assert 0 < sizes["scalars"] < 100 and 0 < sizes["BatchNorm statistics"] < 1e5


@WITH_LIBTPU
def test_what_was_compiled_is_kept_and_found_again_but_not_by_another_config(small_step):
    folder, step = small_step
    same = small()
    same.optimizer.base_lr, same.seed, same.total_steps = 0.5, 7, 12  # constants
    assert Compiler(same, SLICE, folder).known(2) == step
    other = small()
    other.loss.ignored = "mask"
    assert Compiler(other, SLICE, folder).known(2) is None
    assert Compiler(small(), topologies.parse("v5e:4x4"), folder).known(2) is None
    assert [path.suffix for path in folder.iterdir()] == [".gz"]


def test_a_damaged_entry_of_the_cache_is_as_good_as_none(installed, tmp_path):
    known = Compiler(small(), SLICE, tmp_path)
    path = known._path(2)
    compiler.write(path, vars(compiled(2)))
    assert known.known(2) == compiled(2)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-20], whole[:100] + b"?" * 20 + whole[120:], b"?" + whole[1:]):
        path.write_bytes(damaged)
        assert known.known(2) is None


def test_a_plan_is_printed_from_what_is_known(installed, tmp_path, capsys):
    config = small()
    config.system.compilation_cache = str(tmp_path)
    for images, gib in ((2, 9.0), (3, 15.0), (4, 20.0)):
        known = Compiler(config, SLICE, tmp_path / "plans")
        known._path(images).parent.mkdir(exist_ok=True)
        compiler.write(known._path(images), vars(compiled(images, gib=gib)))
    plan(config, [SLICE], [2, 4], find_largest=True)
    printed = capsys.readouterr().out
    assert "ade20k, ResNet-18, crop 64x64, on v5e:2x2: 4 chips" in printed
    assert "At most 3 images a chip fit v5e" in printed


MISTAKES = {
    "no topology": ([], "--topology is missing"),
    "an unknown chip": (["--topology=v7:2x2"], "v7 is no chip"),
    "a wrong shape": (["--topology=v5e:2x2,v5e:3x3"], "v5e:3x3"),
    "no number of images": (["--topology=v5e:2x2", "--images_per_chip=1,two"], "--images_per_chip has 'two'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_2(mistake):
    flags, named = MISTAKES[mistake]
    command = [sys.executable, "main.py", "--config=configs/ade20k.py", "--mode=plan", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and named in line


def test_without_libtpu_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'cpnet-jax\[tpu\]'"):
        plan(small(), [SLICE], [1], find_largest=False)


def test_what_the_compiler_said_is_shown_when_it_fails(installed, tmp_path):
    impossible = topologies.Topology(SLICE.chip, (3, 5))
    with pytest.raises(RuntimeError, match="v5e:3x5"):
        Compiler(small(), impossible, tmp_path).compile(1)
    assert list(tmp_path.iterdir()) == []


def test_images_that_the_parts_of_a_step_do_not_divide_are_refused(installed):
    config = small()
    config.optimizer.accumulate = 2
    with pytest.raises(UserError, match=r"--images_per_chip has 3: .*multiple of config.optimizer.accumulate, 2"):
        plan(config, [SLICE], [2, 3], find_largest=False)
