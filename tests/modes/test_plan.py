"""--mode=plan as a whole: a small network compiled by libtpu, if installed, and users' mistakes."""

import dataclasses
import errno
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_program import run_all
from plan.steps import compiled

from configs import ade20k
from cpnet_jax import losses
from cpnet_jax.errors import UserError
from cpnet_jax.models.backbones import BACKBONES
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.modes.plan import plan
from cpnet_jax.plan import compiler, topologies
from cpnet_jax.plan.compiler import TOOLCHAINS, Compiled, Compiler
from cpnet_jax.plan.figures import figures
from cpnet_jax.runtime import files

SLICE = topologies.parse("v5e:2x2")
WITH_LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the compiler for TPUs, is not installed"
)


WITH_CUDA = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, TOOLCHAINS["cuda"].packages)), reason="JAX's plugin for CUDA is not installed"
)


def small():
    config = ade20k.get_config()
    config.data.crop_size = (64, 64)
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 16, 8
    return config


@pytest.fixture
def installed(monkeypatch):
    """Pretends that libtpu is installed; compiling still fails."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    version = compiler.importlib.metadata.version
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda name: "0" if name == "libtpu" else version(name))


@pytest.fixture(scope="module")
def small_step(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    return folder, Compiler(small(), SLICE, folder).compile(2)


@WITH_LIBTPU
def test_a_small_network_compiles_without_a_tpu(small_step):
    step = small_step[1]
    found = figures(SLICE, step)
    # An 18-layer backbone of 11 million parameters and small heads, in float32, with their momentum.
    assert step.fits and 44e6 < step.state["params"] < 47e6
    assert 0 <= step.state["opt_state"] - step.state["params"] <= 8
    assert step.state["params"] * 2 < step.total < 1e9
    assert sum(found.memory().values()) == step.total
    assert 0 < found.utilization(SLICE.chips) < 0.5


@WITH_LIBTPU
def test_the_compiled_step_exchanges_only_gradients_statistics_and_scalars(small_step):
    found = figures(SLICE, small_step[1])
    assert all(group.expected for group in found.traffic), found.traffic
    sizes = {group.content: group.bytes for group in found.traffic}
    # Kernels travel in bfloat16, the type of the activations.
    assert 0.45 < sizes["gradients"] / small_step[1].state["params"] < 0.6
    assert 0 < sizes["scalars"] < 100 and 0 < sizes["BatchNorm statistics"] < 1e5


@WITH_LIBTPU
def test_the_cache_is_keyed_by_the_config_fields_that_change_the_program(small_step):
    folder, step = small_step
    same = small()
    same.optimizer.base_lr, same.seed, same.total_steps = 0.5, 7, 12  # constants
    assert Compiler(same, SLICE, folder).cached(2) == step
    other = small()
    other.loss.ignored = "mask"
    assert Compiler(other, SLICE, folder).cached(2) is None
    assert Compiler(small(), topologies.parse("v5e:4x4"), folder).cached(2) is None
    assert [path.suffix for path in folder.iterdir()] == [".gz"]


@WITH_CUDA
def test_a_small_network_compiles_without_a_gpu(tmp_path):
    config = small()
    config.model.bfloat16 = True
    machine = topologies.parse("h100:2")
    step = Compiler(config, machine, tmp_path).compile(2)
    found = figures(machine, step)
    # Some of the context prior is computed twice. The losses interpolate without matrix products.
    assert 0.98 < sum(part.flops for part in found.parts.values()) / step.flops < 1.1
    assert found.compute > found.floor
    assert sum(found.memory().values()) == step.total
    assert all(group.expected for group in found.traffic), found.traffic


def test_the_cache_is_keyed_by_the_variables_with_options_of_the_compiler(installed, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    steps = Compiler(small(), SLICE, tmp_path)
    compiler.write(steps._path(2), vars(compiled(2)))
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false")
    assert steps.cached(2) is None
    monkeypatch.delenv("XLA_FLAGS")
    assert steps.cached(2) == compiled(2)


@pytest.mark.parametrize("platform", sorted(compiler.TOOLCHAINS))
def test_a_compiler_runs_without_the_platform_that_the_user_selected(platform):
    """With JAX_PLATFORMS=cuda, JAX would refuse to start without a GPU."""
    assert compiler.TOOLCHAINS[platform].environment["JAX_PLATFORMS"] == "cpu"


def test_a_damaged_cache_entry_is_ignored(installed, tmp_path):
    compiled_steps = Compiler(small(), SLICE, tmp_path)
    path = compiled_steps._path(2)
    compiler.write(path, vars(compiled(2)))
    assert compiled_steps.cached(2) == compiled(2)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-20], whole[:100] + b"?" * 20 + whole[120:], b"?" + whole[1:]):
        path.write_bytes(damaged)
        assert compiled_steps.cached(2) is None


def test_a_plan_is_printed_from_the_cache(installed, tmp_path, capsys):
    config = small()
    config.system.compilation_cache = str(tmp_path)
    for images, gib in ((2, 9.0), (3, 15.0), (4, 20.0)):
        compiled_steps = Compiler(config, SLICE, tmp_path / "plans")
        compiled_steps._path(images).parent.mkdir(exist_ok=True)
        compiler.write(compiled_steps._path(images), vars(compiled(images, gib=gib)))
    plan(config, [SLICE], [2, 4], find_largest=True)
    printed = capsys.readouterr().out
    assert "ade20k, ResNet-18, crop 64x64, on v5e:2x2: 4 chips" in printed
    assert "At most 3 images per chip fit on v5e" in printed


MISTAKES = {
    "no topology": ([], "--topology is missing"),
    "an unknown chip": (["--topology=v7:2x2"], "v7 is an unknown chip"),
    "too many GPUs": (["--topology=h100:16"], "--topology is 'h100:16'"),
    "a wrong shape": (["--topology=v5e:2x2,v5e:3x3"], "v5e:3x3"),
    "no number of images": (["--topology=v5e:2x2", "--images_per_chip=1,two"], "--images_per_chip has 'two'"),
}


@pytest.fixture(scope="module")
def mistakes():
    commands = [["--config=configs/ade20k.py", "--mode=plan", *flags] for flags, _ in MISTAKES.values()]
    return dict(zip(MISTAKES, run_all(commands, os.environ), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_prints_one_line_and_exits_2(mistakes, mistake):
    result = mistakes[mistake]
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and MISTAKES[mistake][1] in line


@pytest.mark.parametrize(
    ("name", "command"), [("v5e:2x2", r"install 'jax\[tpu\]'"), ("h100:8", r"install 'jax\[cuda13\]'")]
)
def test_without_the_compiler_the_error_says_how_to_install_it(monkeypatch, name, command):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=command):
        plan(small(), [topologies.parse(name)], [1], find_largest=False)


def test_the_compilers_output_is_shown_if_it_fails(installed, tmp_path):
    impossible = topologies.Topology(SLICE.chip, (3, 5))
    with pytest.raises(RuntimeError, match="v5e:3x5"):
        Compiler(small(), impossible, tmp_path).compile(1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_no_plan(installed, monkeypatch, tmp_path):
    step, popen = Compiled(2, 1, {}, 1, [], [], None, 1, None, 1.0), subprocess.Popen

    def start(command, **options):
        compiler.write(Path(command[-1]), dataclasses.asdict(step))
        return popen([sys.executable, "-S", "-c", ""], **options)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(files, "replacing", full)
    assert Compiler(small(), SLICE, tmp_path).compile(2) == step


def test_a_mistake_that_only_the_process_that_compiles_finds_is_one_sentence(installed, monkeypatch):
    """Such as a pattern in config.finetune that matches nothing: only that process builds the network."""
    popen = subprocess.Popen
    program = """
import sys
from cpnet_jax.errors import UserError
from cpnet_jax.plan import worker
def compile_step(config, topology, images):
    raise UserError(f"config.finetune.freeze is {config.finetune.freeze}")
worker.compile_step = compile_step
try:
    worker.main(*sys.argv[1:])
finally:
    print("the compiler's last words")
"""
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **options: popen([sys.executable, "-c", program, *command[3:]], **options)
    )
    config = small()
    config.finetune.freeze = ("backbne/.*",)
    with pytest.raises(UserError) as refused:
        Compiler(config, SLICE, None).compile(1)
    assert str(refused.value) == "config.finetune.freeze is ['backbne/.*']"


def test_images_that_are_not_a_multiple_of_accumulate_are_refused(installed):
    config = small()
    config.optimizer.accumulate = 2
    with pytest.raises(UserError, match=r"--images_per_chip has 3: .*multiple of config.optimizer.accumulate, 2"):
        plan(config, [SLICE], [2, 3], find_largest=False)


@pytest.mark.parametrize("field", ["model.backbone", "model.context", "loss.mine_weight"])
def test_a_part_that_a_config_file_adds_is_refused(field, monkeypatch):
    for table in (BACKBONES, CONTEXTS, losses.TERMS):
        monkeypatch.setitem(table, "mine", lambda *_, **__: None)
    config = small()
    compiler.resolve_config(config)
    with config.unlocked():
        config.update_from_flattened_dict({field: 0.5 if field.startswith("loss") else "mine"})
    with pytest.raises(UserError, match=rf"config\.{field} is .*--mode=plan knows only the parts of the package"):
        compiler.resolve_config(config)


CHANGES = {
    "model.depth": 34,
    "loss.ignored": "mask",
    "system.forms": "cpu",
    "system.remat": "blocks",
    "data.num_classes": 7,
    "optimizer.accumulate": 2,
    "optimizer.head_lr_multiplier": 10.0,
    "finetune.freeze": ("backbone/.*",),
    "finetune.norms_in_eval_mode": ("backbone/.*",),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_that_changes_the_program_changes_its_place_in_the_cache(installed, tmp_path, field):
    config = small()
    with config.unlocked():
        config.update_from_flattened_dict({field: CHANGES[field]})
    assert Compiler(config, SLICE, tmp_path)._path(2) != Compiler(small(), SLICE, tmp_path)._path(2)


def test_compiled_steps_are_not_kept_in_an_object_store():
    config = small()
    config.system.compilation_cache = "gs://bucket/cache"
    assert compiler.cache_folder(config) is None
